//! One process that wants more than its share, and what becomes of the others meanwhile.
//!
//! The attacker is a program of its own; the victim is this test, which goes on getting its identity on
//! new connections. The figures are printed: a stated time is a row of `make attack`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proto::workload::X509svidRequest;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tests::api::admin_channel;
use tests::domain::{Agent, Domain, Plan, free_port};
use tests::process::{Process, eventually};
use tests::programs::Make::Signet;
use tests::scenarios::wait_for_svid;
use tokio::time::Instant;

const HOSTILE: &str = env!("CARGO_BIN_EXE_hostile");

/// How many KiB of resident memory an attack may cost.
const ROOM: usize = 64 << 10;

/// An agent that serves this user, and tells its metrics.
struct Target {
    agent: Agent,
    metrics: u16,
    _domain: Domain,
}

impl Target {
    fn new() -> Self {
        Self::started_by("exec \"$@\"", "")
    }

    /// With these lines for the block `limits`.
    fn with_limits(limits: &str) -> Self {
        Self::started_by("exec \"$@\"", limits)
    }

    fn started_by(shell: &str, limits: &str) -> Self {
        let domain = Plan::new(Signet).ids_alone().start();
        let metrics = free_port();
        let place = domain.place("");
        place.configure("log_level = \"DEBUG\"", "log_level = \"INFO\"");
        place.configure(
            "plugins {",
            &format!(
                "telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {metrics} }} }}\nsignet {{ limits {{ {limits} }} }}\nplugins {{"
            ),
        );
        let agent = place.serve_by(shell);
        domain.entry(&agent, "/victim", "unix:uid:0", &[]);
        wait_for_svid(&agent, "/victim");
        Self {
            agent,
            metrics,
            _domain: domain,
        }
    }

    fn hostile(&self, words: &[&str]) -> Process {
        let words = self.words(words);
        Process::start_with_open_input("hostile", Command::new(HOSTILE).args(words))
    }

    /// The same from a container of docker's, as far as the kernel tells.
    fn hostile_in(&self, container: &Container, words: &[&str]) -> Process {
        let procs = container.0.join("cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(procs).arg(HOSTILE).args(self.words(words));
        Process::start_with_open_input("hostile", &mut command)
    }

    /// `SOCKET` stands for the socket.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let socket = self.agent.socket().display().to_string();
        let words = words.iter().map(|word| match *word {
            "SOCKET" => socket.clone(),
            word => word.to_owned(),
        });
        words.collect()
    }

    /// Gets the identity so often, each time on a new connection, and tells how long that took.
    fn victim(&self, times: usize) -> Latencies {
        let socket = self.agent.socket();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut all = Vec::new();
        for _ in 0..times {
            all.push(runtime.block_on(async {
                let start = Instant::now();
                fetch(&socket).await;
                let took = start.elapsed();
                tokio::time::sleep(Duration::from_millis(5)).await;
                took
            }));
        }
        all.sort();
        Latencies(all)
    }

    fn resident_kib(&self) -> usize {
        let pid = self.agent.process.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }

    /// Hundredths of a second that the agent has computed for.
    fn computed(&self) -> u64 {
        let pid = self.agent.process.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        let times: Vec<u64> = fields
            .skip(11)
            .take(2)
            .map(|time| time.parse().expect("ticks"))
            .collect();
        times.iter().sum()
    }

    /// The lines of all metrics.
    fn metrics(&self) -> Vec<String> {
        let text = tests::api::http_get(self.metrics, "/metrics");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    /// The sum of the series whose line has all these parts.
    fn metric(&self, parts: &[&str]) -> u64 {
        let metrics = self.metrics();
        let lines = metrics
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

struct Latencies(Vec<Duration>);

impl Latencies {
    fn at(&self, hundredth: usize) -> f64 {
        let at = (self.0.len() * hundredth / 100).min(self.0.len() - 1);
        self.0.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3
    }

    fn row(&self, name: &str, goal: &str) {
        println!(
            "{name}: victim's fetch p50 {:.1} ms, p99 {:.1} ms ({goal})",
            self.at(50),
            self.at(99)
        );
    }
}

async fn fetch(socket: &Path) {
    let mut client = SpiffeWorkloadApiClient::new(admin_channel(socket).await);
    let mut request = tonic::Request::new(X509svidRequest {});
    let header = "true".parse().expect("a value");
    request.metadata_mut().insert("workload.spiffe.io", header);
    let answer = client.fetch_x509svid(request).await.expect("a stream");
    let message = answer.into_inner().message().await.expect("a message");
    assert_eq!(message.expect("a message").svids.len(), 1);
}

/// A cgroup that looks like a container of docker's. It is removed when this is dropped.
struct Container(PathBuf);

impl Container {
    /// `None` where this machine's cgroups cannot be written.
    fn new(digit: char) -> Option<Self> {
        let hierarchies = [
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup",
        ];
        let id: String = std::iter::repeat_n(digit, 56)
            .chain(format!("{:08x}", std::process::id()).chars())
            .collect();
        let mut roots = hierarchies.iter().map(Path::new);
        let root = roots.find(|root| root.join("cgroup.procs").is_file())?;
        let folder = root.join("docker").join(&id);
        fs::create_dir_all(&folder).ok()?;
        Some(Self(folder))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Only when the last process of it has been reaped.
        eventually("the cgroup is empty", || {
            fs::read_to_string(self.0.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty())
        });
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

fn is_long() -> bool {
    super::rounds(0) > 0
}

#[test]
fn ten_thousand_streams_of_one_process_are_refused_but_its_share_and_memory_comes_back() {
    let target = Target::new();
    target.victim(20);
    let before = target.resident_kib();
    let mut hostile = target.hostile(&["streams", "SOCKET", "10000"]);
    let printed = hostile.line("answered=");
    let latencies = target.victim(200);
    latencies.row("10,000 streams of one process", "goal: p99 below 100 ms");
    let during = target.resident_kib();
    println!("{printed}; resident {before} KiB before, {during} KiB meanwhile");
    assert!(
        printed.contains("connections=64 answered=256 "),
        "{printed}"
    );
    assert!(during < before + ROOM, "{before} KiB, then {during} KiB");
    assert!(target.metric(&["streams_refused_total", "process_full"]) > 0);
    hostile.kill();
    eventually("its streams are gone", || {
        target.metric(&["signet_workload_calls_open", "FetchX509SVID"]) == 0
    });
    let after = target.resident_kib();
    println!("resident {after} KiB after it");
    target.victim(1);
}

#[test]
fn connections_that_say_nothing_half_a_preface_or_a_byte_a_second_are_ended() {
    // The limits are 10 s to the preface and 30 s to a request, which only the long rounds wait for.
    let (patience, kinds): (_, &[&str]) = if is_long() {
        ("45", &["silent", "half", "drip", "mute"])
    } else {
        ("3", &["half"])
    };
    let target = Target::new();
    let mut attackers: Vec<_> = kinds
        .iter()
        .map(|kind| target.hostile(&[kind, "SOCKET", patience]))
        .collect();
    target
        .victim(200)
        .row("silent connections", "goal: p99 below 100 ms");
    for (kind, attacker) in kinds.iter().zip(&mut attackers) {
        let printed = attacker.line("at_once=");
        println!("128 connections, {kind}: {printed}");
        // Half of them are beyond the share of a process.
        assert!(printed.contains("at_once=64 "), "{printed}");
        assert!(!is_long() || printed.contains("open=0 "), "{printed}");
    }
}

#[test]
fn floods_of_frames_end_their_connections_while_others_are_served() {
    let seconds: u32 = if is_long() { 30 } else { 2 };
    let target = Target::new();
    target.victim(20);
    for kind in [
        "resets",
        "continuation",
        "bomb",
        "pings",
        "settings",
        "empty-data",
    ] {
        let before = (target.resident_kib(), target.computed());
        let mut hostile = target.hostile(&["flood", kind, "SOCKET", &seconds.to_string()]);
        let latencies = target.victim(if is_long() { 1000 } else { 50 });
        let printed = hostile.line("cut=");
        let computed = target.computed() - before.1;
        latencies.row(kind, "goal: p99 below 200 ms");
        let resident = target.resident_kib().saturating_sub(before.0);
        println!(
            "{kind}: {printed}; the agent took {computed} % of {seconds} seconds of a core and {resident} KiB more (goals: 20 %, 32 MiB)",
            computed = computed / u64::from(seconds),
        );
        assert!(resident < ROOM, "{kind}: {resident} KiB");
        assert!(
            !printed.contains("cut=0 "),
            "{kind} is never cut off: {printed}"
        );
    }
}

#[test]
fn a_storm_of_one_container_is_refused_before_it_is_attested_and_others_are_served() {
    // A rate that any machine goes beyond, however slow.
    let target = Target::with_limits("container { calls_per_second = 20 calls_burst = 40 }");
    let Some(storm) = Container::new('a') else {
        return println!("skipped: this machine's cgroups cannot be written");
    };
    target.victim(20);
    let seconds = if is_long() { "20" } else { "4" };
    // Several processes, so that no share of a process stands in the way.
    let attackers: Vec<_> = (0..4)
        .map(|_| target.hostile_in(&storm, &["flood", "calls", "SOCKET", seconds]))
        .collect();
    eventually("it is refused", || {
        target.metric(&["streams_refused_total", "container_rate"]) > 0
    });
    let latencies = target.victim(100);
    latencies.row(
        "an attestation storm of one container",
        "goal: p99 below 100 ms",
    );
    for mut attacker in attackers {
        println!("{}", attacker.line("cut="));
        attacker.wait();
    }
    // The victim is root's too, and its share is whole.
    assert_eq!(target.metric(&["streams_refused_total", "user_rate"]), 0);
    assert_eq!(target.metric(&["streams_refused_total", "user_full"]), 0);
    let told = target.agent.process.text();
    assert!(told.contains("error.reason=container_rate"), "{told}");
}

#[test]
fn a_container_has_so_many_connections_and_streams_however_many_processes_it_has() {
    let target = Target::new();
    let Some(storm) = Container::new('b') else {
        return println!("skipped: this machine's cgroups cannot be written");
    };
    let mut attackers: Vec<_> = (0..2)
        .map(|_| target.hostile_in(&storm, &["streams", "SOCKET", "400"]))
        .collect();
    let answered = attackers.iter_mut().map(|attacker| {
        let printed = attacker.line("answered=");
        println!("{printed}");
        let number = printed
            .split("answered=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        number
            .and_then(|number| number.parse::<u32>().ok())
            .expect("a number")
    });
    assert!(answered.sum::<u32>() <= 256);
    assert!(target.metric(&["connections_ended_total", "container_full"]) > 0);
    target.victim(20);
}

#[test]
fn streams_that_are_not_read_are_reset_and_their_connection_stays() {
    let target = Target::new();
    let before = target.resident_kib();
    let mut hostile = target.hostile(&["unread", "SOCKET", "40"]);
    target
        .victim(50)
        .row("streams without window", "goal: p99 below 100 ms");
    let printed = hostile.line("reset=");
    println!("{printed} (goal: 10 s)");
    assert!(printed.contains("reset=200 open=true"), "{printed}");
    assert!(target.resident_kib() < before + ROOM);
    assert_eq!(target.metric(&["streams_refused_total", "not_read"]), 200);
}

#[test]
fn bad_calls_without_end_take_ten_lines_a_second_and_make_no_series() {
    let target = Target::new();
    target.victim(1);
    let (lines, series) = (target.agent.process.lines(), target.metrics().len());
    let seconds: usize = if is_long() { 60 } else { 3 };
    let mut attackers: Vec<_> = (0..2)
        .map(|_| target.hostile(&["flood", "bad-calls", "SOCKET", &seconds.to_string()]))
        .collect();
    for attacker in &mut attackers {
        println!("distinct bad calls: {}", attacker.line("cut="));
    }
    let lines = target.agent.process.lines() - lines;
    let grown = target.metrics().len() - series;
    println!(
        "{lines} lines of the log in {seconds} s (goal: 10 a second), {grown} series more (goal: 2,000 in all)"
    );
    // Its first second has a burst, and its processes need a moment to end.
    assert!(lines <= 10 * (seconds + 2), "{lines}");
    assert!(series + grown < 2000, "{series} and {grown}");
}

#[test]
fn without_descriptors_accepting_pauses_streams_live_and_it_goes_on_when_there_are_some() {
    let mut target = Target::started_by("ulimit -n 256 && exec \"$@\"", "");
    let mut streams = target.agent.api_command(Signet, &["watch"]);
    let mut stream = Process::start("watch", &mut streams);
    stream.line("spiffe://example.org/victim");
    // One process alone has too few places.
    let mut hostile: Vec<_> = (0..4)
        .map(|_| target.hostile(&["mute", "SOCKET", "600"]))
        .collect();
    let agent = &mut target.agent.process;
    let (_, told) = agent.line_after(0, "No resources left to accept");
    assert!(stream.is_running());
    assert!(agent.is_running());
    for process in &mut hostile {
        process.kill();
    }
    agent.line_after(told, "Accepting connections again");
    target.victim(20);
    assert!(stream.is_running(), "{}", stream.text());
}
