//! What keeps a server or an agent from starting, other than its state.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::place::Place;

#[test]
fn an_unknown_key_and_a_wrong_type_are_told_with_their_place_and_nothing_is_made() {
    for (part, to, words) in [
        ("server", "bind_prot = 8081", "bind_prot"),
        ("server", "bind_port = \"many\"", "bind_port"),
        ("server", "log_level = [\"DEBUG\"]", "log_level"),
        ("server", "ca_ttl = \"soon\"", "ca_ttl"),
        ("agent", "socket_pth = \"x\"", "socket_pth"),
        ("agent", "server_port = \"many\"", "server_port"),
        (
            "agent",
            "insecure_bootstrap = \"perhaps\"",
            "insecure_bootstrap",
        ),
    ] {
        let place = Place::new();
        let key = to.split(' ').next().unwrap_or_default();
        let text = std::fs::read_to_string(place.path(&format!("{part}.conf"))).unwrap();
        match text
            .lines()
            .find(|line| line.trim().starts_with(&format!("{key} ")))
        {
            Some(line) => place.change(part, line, to),
            None => place.change(part, "trust_domain =", &format!("{to}\ntrust_domain =")),
        }
        let said = place.refused(part, &[]);
        assert!(said.contains(words), "{to}: {said}");
        assert!(!place.path(part).try_exists().unwrap(), "{to}");
    }
}

#[test]
fn a_missing_or_unreadable_file_is_told_with_its_name() {
    let place = Place::new();
    let server = place.server();
    let token = place.token();
    let join = ["-joinToken", token.as_str()];
    // A folder is what even root cannot read as a file.
    for part in ["server", "agent"] {
        for name in ["nowhere.conf", "server"] {
            let path = place.path(name);
            let said = place.refused(part, &["-config", path.to_str().unwrap()]);
            assert!(said.contains(path.to_str().unwrap()), "{said}");
        }
    }
    let bundle = std::fs::read(place.path("bundle.pem")).unwrap();
    for (content, words) in [
        (None, "bundle.pem"),
        (Some("<!DOCTYPE html><html>moved</html>"), "bundle.pem"),
        (Some(""), "bundle.pem"),
    ] {
        std::fs::remove_file(place.path("bundle.pem")).unwrap();
        if let Some(content) = content {
            std::fs::write(place.path("bundle.pem"), content).unwrap();
        }
        let said = place.refused("agent", &join);
        assert!(said.contains(words), "{said}");
        std::fs::write(place.path("bundle.pem"), &bundle).unwrap();
    }
    let nowhere = place.path("no-token");
    let said = place.refused("agent", &["-joinTokenFile", nowhere.to_str().unwrap()]);
    assert!(said.contains("no-token"), "{said}");
    // None of it has spent the token.
    drop(place.agent(&join));
    drop(server);
}

#[test]
fn whatever_is_in_use_is_told_before_anything_is_spent() {
    let place = Place::new();
    let taken = TcpListener::bind(("127.0.0.1", place.port)).unwrap();
    let said = place.refused("server", &[]);
    assert!(
        said.contains(&format!("127.0.0.1:{}", place.port)),
        "{said}"
    );
    drop(taken);
    let taken = UnixListener::bind(place.path("server.sock")).unwrap();
    let said = place.refused("server", &[]);
    assert!(said.contains("server.sock"), "{said}");
    drop(taken);

    let _server = place.server();
    let token = place.token();
    let join = ["-joinToken", token.as_str()];
    let taken = UnixListener::bind(place.path("agent.sock")).unwrap();
    let said = place.refused("agent", &join);
    assert!(said.contains("agent.sock"), "{said}");
    drop(taken);
    let _agent = place.agent(&join);
}

#[test]
fn a_second_program_on_the_same_state_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let mut server = place.server();
    let token = place.token();
    let mut agent = place.agent(&["-joinToken", &token]);
    let before = (place.content("server"), place.content("agent"));

    // Ports and sockets of their own, so that the folder alone stands in the way.
    let other = Place::new();
    for part in ["server", "agent"] {
        // The quote keeps the sockets out of it.
        let quoted = |place: &Place| format!("\"{}\"", place.path(part).display());
        other.change(part, &quoted(&other), &quoted(&place));
    }
    std::fs::copy(place.path("bundle.pem"), other.path("bundle.pem")).unwrap();
    let said = other.refused("server", &[]);
    assert!(said.contains("give this server its own data_dir"), "{said}");
    let said = other.refused("agent", &[]);
    assert!(said.contains("another agent runs on"), "{said}");
    assert_eq!((place.content("server"), place.content("agent")), before);
    assert!(server.is_running() && agent.is_running());
    assert_eq!(place.create_entry("a").code, 0);
    // A crash leaves no lock behind.
    agent.kill();
    let _agent = place.agent(&[]);
}

#[test]
fn a_socket_path_that_the_kernel_would_cut_is_told_with_its_limit() {
    for part in ["server", "agent"] {
        let place = Place::new();
        let long = place.path(&"x".repeat(100));
        let socket = place.path(&format!("{part}.sock"));
        place.change(part, socket.to_str().unwrap(), long.to_str().unwrap());
        std::fs::write(place.path("bundle.pem"), "").unwrap();
        let said = place.refused(part, &[]);
        assert!(said.contains("path_too_long"), "{said}");
        assert!(said.contains(long.to_str().unwrap()), "{said}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_told_with_its_name() {
    for part in ["server", "agent"] {
        for key in ["data_dir", "socket_path"] {
            let place = Place::new();
            std::fs::write(place.path("bundle.pem"), "").unwrap();
            std::fs::write(place.path("file"), "").unwrap();
            let wrong = place.path("file/below");
            let text = std::fs::read_to_string(place.path(&format!("{part}.conf"))).unwrap();
            let line = text.lines().find(|line| line.contains(key)).unwrap();
            place.change(part, line, &format!("{key} = \"{}\"", wrong.display()));
            let said = place.refused(part, &[]);
            let named = said.contains(place.path("file").to_str().unwrap());
            assert!(named, "{part} {key}: {said}");
        }
    }
}

#[test]
fn a_server_of_another_authority_is_not_believed_and_asked_on() {
    let (place, other) = (Place::new(), Place::new());
    let _server = place.server();
    let _other = other.server();
    std::fs::copy(other.path("bundle.pem"), place.path("bundle.pem")).unwrap();
    let token = place.token();
    let mut agent = tests::process::Process::start(
        "agent",
        place.command("agent").args(["-joinToken", &token]),
    );
    let line = agent.line("Could not attest, and will try on");
    assert!(line.contains("unknown_authority"), "{line}");
    assert_eq!(agent.stop().code(), Some(0));
    // The token is whole.
    let bundle = place.cli(&["bundle", "show"]).success();
    std::fs::write(place.path("bundle.pem"), bundle).unwrap();
    let _agent = place.agent(&["-joinToken", &token]);
}
