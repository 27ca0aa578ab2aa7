//! Child processes that a test owns: their output is kept, and they end with the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a test waits for anything before it calls that a hang. No test passes by this time.
pub const HANG: Duration = Duration::from_secs(60);

/// The most lines of output that are kept.
const KEPT_LINES: usize = 20_000;

#[expect(
    clippy::disallowed_types,
    reason = "a condition variable needs std's lock"
)]
type Lock<T> = std::sync::Mutex<T>;

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    // Held open, so that a program which ends with its input ends with this process.
    _input: Option<ChildStdin>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Lock<Lines>,
    grew: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    dropped: usize,
    open_pipes: usize,
}

impl Process {
    /// Starts a program; both its outputs are collected, line by line.
    pub fn start(name: &str, command: &mut Command) -> Self {
        Self::spawn(name, command.stdin(Stdio::null()))
    }

    /// The same with an input that ends with this process, even if that is killed.
    pub fn start_with_open_input(name: &str, command: &mut Command) -> Self {
        Self::spawn(name, command.stdin(Stdio::piped()))
    }

    fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let output = Arc::new(Output::default());
        output.lines.lock().unwrap().open_pipes = 2;
        collect(child.stdout.take().unwrap(), Arc::clone(&output));
        collect(child.stderr.take().unwrap(), Arc::clone(&output));
        Self {
            name: name.to_owned(),
            _input: child.stdin.take(),
            child,
            output,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal)
            .unwrap_or_else(|error| panic!("{} cannot be signalled: {error}", self.name));
    }

    /// Ends the program as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let start = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < HANG,
                "{} does not end:\n{}",
                self.name,
                self.text()
            );
            pause();
        }
    }

    /// Asks the program to end (SIGTERM) and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for a line that contains `text`, among those after the first `after` lines.
    /// Returns the line and how many lines stand before the next one.
    pub fn line_after(&mut self, after: usize, text: &str) -> (String, usize) {
        let start = now();
        let mut lines = self.output.lines.lock().unwrap();
        let mut from = after;
        loop {
            let skip = from.saturating_sub(lines.dropped);
            if let Some((at, line)) = lines
                .kept
                .iter()
                .enumerate()
                .skip(skip)
                .find(|(_, line)| line.contains(text))
            {
                return (line.clone(), lines.dropped + at + 1);
            }
            from = lines.dropped + lines.kept.len();
            let ended = lines.open_pipes == 0;
            if ended || start.elapsed() > HANG {
                let all = lines.kept.iter().cloned().collect::<Vec<_>>().join("\n");
                panic!("{} never says `{text}` (ended: {ended}):\n{all}", self.name);
            }
            lines = self
                .output
                .grew
                .wait_timeout(lines, Duration::from_millis(200))
                .unwrap()
                .0;
        }
    }

    /// Waits for a line that contains `text`.
    pub fn line(&mut self, text: &str) -> String {
        self.line_after(0, text).0
    }

    /// How many lines it has printed.
    pub fn lines(&self) -> usize {
        let lines = self.output.lines.lock().unwrap();
        lines.dropped + lines.kept.len()
    }

    /// Whether both its outputs are closed: nothing more will come.
    pub fn has_said_all(&self) -> bool {
        self.output.lines.lock().unwrap().open_pipes == 0
    }

    /// What it has printed so far.
    pub fn text(&self) -> String {
        let lines = self.output.lines.lock().unwrap();
        lines.kept.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let tail: Vec<_> = self
                .text()
                .lines()
                .rev()
                .take(60)
                .map(str::to_owned)
                .collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            eprintln!("---- the end of {} ----\n{tail}", self.name);
        }
    }
}

fn collect(pipe: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { break };
            let mut lines = output.lines.lock().unwrap();
            if lines.kept.len() == KEPT_LINES {
                lines.kept.pop_front();
                lines.dropped += 1;
            }
            lines
                .kept
                .push_back(String::from_utf8_lossy(&line).into_owned());
            output.grew.notify_all();
        }
        output.lines.lock().unwrap().open_pipes -= 1;
        output.grew.notify_all();
    });
}

/// What a program that ended has printed.
#[derive(Clone, Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    /// The exit code; for a signal its number plus 128.
    pub code: i32,
}

impl Ended {
    /// Its standard output, after making sure that it succeeded.
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ended {
    run_with_input(command, "")
}

/// Runs a program to its end, with this text as its input.
pub fn run_with_input(command: &mut Command, input: &str) -> Ended {
    let output = output_of(command, input)
        .unwrap_or_else(|error| panic!("{command:?} does not run: {error}"));
    let code = output
        .status
        .code()
        .or_else(|| output.status.signal().map(|signal| signal + 128));
    Ended {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: code.unwrap_or(-1),
    }
}

fn output_of(command: &mut Command, input: &str) -> std::io::Result<std::process::Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A program that does not read its input closes it; what it then says is the answer.
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_owned();
    std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    child.wait_with_output()
}

/// Asks until the answer is yes. For states of other programs that send no event.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = now();
    while !holds() {
        assert!(start.elapsed() < HANG, "never: {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "a hang guard in real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the state of another process sends no event"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
