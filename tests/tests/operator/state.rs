//! State that is damaged, of a later version, or somebody else's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::place::Place;

/// A server and an agent that have run and ended.
fn used() -> Place {
    let place = Place::new();
    let mut server = place.server();
    let token = place.token();
    let mut agent = place.agent(&["-joinToken", &token]);
    assert_eq!(place.create_entry("a").code, 0);
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(server.stop().code(), Some(0));
    place
}

#[test]
fn damaged_state_ends_the_start_with_what_to_do_and_is_left_as_it_is() {
    let place = used();
    for (part, name) in [
        ("server", "datastore.redb"),
        ("server", "keys.json"),
        ("agent", "agent-data.json"),
        ("agent", "keys.json"),
    ] {
        let path = place.path(part).join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        // The third quarter is in the middle of a certificate, a key, or a page of the store.
        let at = match name {
            "datastore.redb" => 70,
            _ => whole.len() * 3 / 4,
        };
        flipped[at] ^= 0x10;
        let mut damages = vec![
            whole[..whole.len() / 2].to_vec(),
            flipped,
            b"\0".repeat(512),
        ];
        damages.push(Vec::new());
        for (number, damage) in damages.iter().enumerate() {
            std::fs::write(&path, damage).unwrap();
            let before = place.content(part);
            let said = place.refused(part, &[]);
            assert!(said.contains(name), "{name} {number}: {said}");
            assert!(said.contains("restore"), "{name} {number}: {said}");
            assert_eq!(place.content(part), before, "{name} {number}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    // With the files as they were, everything is as it was.
    let _server = place.server();
    let _agent = place.agent(&[]);
    let count = place.cli(&["entry", "count"]).success();
    assert_eq!(count, "1 registration entry\n");
}

/// Every so many bits, one of them flipped.
fn flipped(whole: &[u8], step: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..whole.len() * 8).step_by(step).map(|bit| {
        let mut damaged = whole.to_vec();
        *damaged.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        damaged
    })
}

/// SPIRE's file with bits flipped inside its certificates, so that nothing but these is damaged.
fn damaged_certificates(whole: &Value) -> Vec<String> {
    let mut damages = Vec::new();
    for field in ["svid", "bundle"] {
        let place = format!("/{field}/0");
        let text = whole.pointer(&place).unwrap().as_str().unwrap();
        let text = BASE64.decode(text).unwrap();
        let block = pem::parse(&text).unwrap();
        for der in flipped(block.contents(), 331) {
            let text = pem::encode_config(
                &pem::Pem::new(block.tag(), der),
                pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
            );
            let mut damaged = whole.clone();
            *damaged.pointer_mut(&place).unwrap() = BASE64.encode(text).into();
            damages.push(damaged.to_string());
        }
    }
    damages
}

#[test]
fn damaged_files_of_a_spire_agent_are_refused_and_whole_ones_taken_over() {
    let place = used();
    let path = |name: &str| place.path("agent").join(name);
    let mut data: Value =
        serde_json::from_slice(&std::fs::read(path("agent-data.json")).unwrap()).unwrap();
    // SPIRE's file has no checksum.
    data.as_object_mut().unwrap().remove("signet_checksum");
    let data_text = data.to_string();
    std::fs::write(path("agent-data.json"), &data_text).unwrap();
    let keys = std::fs::read_to_string(path("keys.json")).unwrap();

    let cut = |text: &str| -> Vec<String> {
        let lengths = (0..text.trim_end().len()).step_by(text.len() / 8);
        lengths
            .map(|length| text.chars().take(length).collect())
            .collect()
    };
    let mut damages = vec![("agent-data.json", damaged_certificates(&data))];
    damages.push(("agent-data.json", cut(&data_text)));
    let misspelt = ["svid", "bundle", "reattestable"]
        .map(|name| data_text.replace(&format!("\"{name}\""), &format!("\"{name}r\"")));
    damages.push(("agent-data.json", misspelt.to_vec()));
    damages.push(("keys.json", cut(&keys)));
    damages.push(("keys.json", vec![keys.replace("\"keys\"", "\"keyr\"")]));
    for (name, damages) in damages {
        let whole = std::fs::read(path(name)).unwrap();
        for (number, damage) in damages.iter().enumerate() {
            std::fs::write(path(name), damage).unwrap();
            let before = place.content("agent");
            let said = place.refused("agent", &[]);
            assert!(said.contains(name), "{name} {number}: {said}");
            assert!(
                said.contains("restore it from a backup"),
                "{name} {number}: {said}"
            );
            assert_eq!(place.content("agent"), before, "{name} {number}");
        }
        std::fs::write(path(name), &whole).unwrap();
    }
    // The token is spent: without what the files hold there would be no agent.
    let _server = place.server();
    let _agent = place.agent(&[]);
}

#[test]
fn a_store_of_a_later_version_is_refused_with_both_versions_and_left_as_it_is() {
    let place = used();
    let path = place.path("server").join("datastore.redb");
    let set_format = |format: u64| {
        let store = redb::Database::create(&path).unwrap();
        let write = store.begin_write().unwrap();
        let numbers = redb::TableDefinition::<&str, u64>::new("numbers");
        let mut numbers_now = write.open_table(numbers).unwrap();
        let known = numbers_now.insert("format", format).unwrap();
        let known = known.map(|number| number.value()).unwrap();
        drop(numbers_now);
        write.commit().unwrap();
        known
    };
    let known = set_format(99);
    let before = place.content("server");
    let said = place.refused("server", &[]);
    assert!(said.contains("datastore.redb"), "{said}");
    let words = format!("has format 99, and this version knows formats up to {known}");
    assert!(said.contains(&words), "{said}");
    assert!(said.contains("run the version that wrote it"), "{said}");
    assert_eq!(place.content("server"), before);
    set_format(known);
    let _server = place.server();
    let count = place.cli(&["entry", "count"]).success();
    assert_eq!(count, "1 registration entry\n");
}

#[test]
fn the_state_of_another_trust_domain_is_told_with_both_names() {
    let place = used();
    for part in ["server", "agent"] {
        place.change(part, "\"example.org\"", "\"other.org\"");
        let before = place.content(part);
        let said = place.refused(part, &[]);
        for word in ["example.org", "other.org"] {
            assert!(said.contains(word), "{part}: {said}");
        }
        assert_eq!(place.content(part), before);
    }
}
