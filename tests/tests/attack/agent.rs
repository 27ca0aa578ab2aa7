//! An agent that is killed: at random moments, and in the one that matters most.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tests::domain::{Domain, Place, Plan};
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;

/// So many agents live at once.
const AGENTS: u32 = 4;

#[test]
fn a_killed_agent_comes_back_with_its_identity_and_needs_no_new_token() {
    let seed = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.subsec_nanos());
    println!("seed {seed}");
    let lives = super::rounds(20).min(400).div_ceil(AGENTS);
    // An agent's SVID of 16 seconds is renewed within three.
    let domain = Plan::new(Signet).key("agent_ttl = \"16s\"").start();
    // All of them before the first one starts, for they share the file of the bundle.
    let places: Vec<_> = (0..AGENTS).map(|_| domain.place("")).collect();
    std::thread::scope(|scope| {
        for (number, place) in (0_u64..).zip(places) {
            let domain = &domain;
            scope.spawn(move || live(domain, place, lives, u64::from(seed) << 3 | number << 1 | 1));
        }
    });
    let counted = domain.cli(&["agent", "count"]).success();
    assert_eq!(counted, format!("{AGENTS} attested agents\n"));
}

/// Starts an agent and kills it, again and again; then it has to be there as who it was.
fn live(domain: &Domain, place: Place, lives: u32, mut random: u64) {
    for life in 0..lives {
        let mut process = place.start();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Half of the lives end while the agent attests or synchronizes, the others about a renewal.
        let longest = if life % 2 == 0 { 300 } else { 3_500 };
        let after = Duration::from_millis(random % longest);
        #[expect(
            clippy::disallowed_methods,
            reason = "the moment of the kill is the experiment"
        )]
        std::thread::sleep(after);
        assert!(process.is_running(), "it ended: {}", process.text());
        process.kill();
    }
    let mut process = place.start();
    place.wait();
    process.kill();
    let agent = place.start_again();
    domain.entry(
        &agent,
        &format!("/{}", agent.process.pid()),
        "unix:uid:0",
        &[],
    );
    wait_for_svid(&agent, &format!("/{}", agent.process.pid()));
    let shown = domain.cli(&["agent", "show", "-spiffeID", &agent.id]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
}

#[test]
fn an_agent_killed_after_its_token_was_spent_attests_by_it_again() {
    let mut domain = Plan::new(Signet).start();
    let place = domain.place("");
    let slow = Slow::before(domain.port);
    place.configure(
        &format!("server_port = \"{}\"", domain.port),
        &format!("server_port = \"{}\"", slow.port),
    );
    let mut process = place.start();
    domain.server.line("Attested an agent");
    slow.held.store(true, Ordering::SeqCst);
    process.kill();
    let text = process.text();
    assert!(text.contains("Attesting"), "{text}");
    assert!(
        !text.contains("msg=Attested "),
        "the answer arrived: {text}"
    );
    slow.held.store(false, Ordering::SeqCst);

    let mut process = place.start();
    place.wait();
    process.kill();
    let agent = place.start_again();
    assert!(domain.cli(&["agent", "show", "-spiffeID", &agent.id]).code == 0);
}

/// A way to a server whose answers arrive late, or not at all.
struct Slow {
    port: u16,
    held: Arc<AtomicBool>,
}

/// What an answer takes on its way: time enough to stop it.
const LATENCY: Duration = Duration::from_millis(500);

impl Slow {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let held = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&held);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server =
                    TcpStream::connect(("127.0.0.1", server)).expect("the server is there");
                let (from, to) = (client.try_clone(), server.try_clone());
                let (from, to) = (from.expect("a handle"), to.expect("a handle"));
                std::thread::spawn(move || pass(from, to, || true));
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    pass(server, client, || {
                        #[expect(clippy::disallowed_methods, reason = "this is a slow network")]
                        std::thread::sleep(LATENCY);
                        !stop.load(Ordering::SeqCst)
                    });
                });
            }
        });
        Self { port, held }
    }
}

/// Passes bytes on until one side ends, or `on` says no.
fn pass(mut from: TcpStream, mut to: TcpStream, on: impl Fn() -> bool) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count) = from.read(&mut bytes) {
        let Some(read) = bytes.get(..count).filter(|read| !read.is_empty() && on()) else {
            break;
        };
        if to.write_all(read).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
