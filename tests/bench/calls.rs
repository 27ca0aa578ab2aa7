//! What stands in a pod and calls the Workload API, and says how long it took.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::time::ClockId;

use crate::cost::{micros, pause, wall};
use crate::fetch::fetch;

/// How long a call may take that is answered at all.
const HANG: Duration = Duration::from_secs(5);

/// Calls once, as the first act of a process, and prints the microseconds to the first SVID.
pub(crate) fn call(socket: &Path) {
    let runtime = runtime();
    let start = wall();
    let kept = runtime.block_on(fetch(socket));
    println!("{}", micros(start.elapsed()));
    drop(kept);
}

/// Lets one process after the other call.
pub(crate) fn calls(socket: &Path, count: u32, apart: Duration) {
    let this = std::env::current_exe().unwrap();
    for _ in 0..count {
        let start = wall();
        let status = Command::new(&this).arg("call").arg(socket).status();
        assert!(status.unwrap().success(), "a call got nothing");
        pause(apart.saturating_sub(start.elapsed()));
    }
}

/// Makes a new connection every 10 ms, and prints when the calls begin to fail and when they are answered again, in
/// seconds since the machine's start.
pub(crate) fn follow(socket: &Path) {
    // A call that goes wrong panics, which is no news here.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = runtime();
    let mut answered = false;
    loop {
        let socket = socket.to_owned();
        let call = runtime.spawn(async move { fetch(&socket).await.0 });
        let call = async { tokio::time::timeout(HANG, call).await };
        let now_answered = matches!(runtime.block_on(call), Ok(Ok(_)));
        if now_answered != answered {
            answered = now_answered;
            let word = if answered { "answered" } else { "lost" };
            println!("{word} {}", since_start());
            std::io::stdout().flush().unwrap();
        }
        pause(Duration::from_millis(10));
    }
}

/// Seconds since the machine's start, the same for all its processes.
pub(crate) fn since_start() -> f64 {
    Duration::from(ClockId::CLOCK_BOOTTIME.now().unwrap()).as_secs_f64()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
