//! State that is damaged or somebody else's.

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
