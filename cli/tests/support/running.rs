//! The built program as a server or an agent that runs.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Program, text};

/// A configuration in `folder`, with `more` in its block `server`.
pub(crate) fn server_file(folder: &Path, port: u16, more: &str) -> String {
    let path = folder.join("server.conf");
    let folder = folder.display();
    let file = format!(
        "server {{ bind_address = \"127.0.0.1\" bind_port = \"{port}\" trust_domain = \"example.org\"\n\
         data_dir = \"{folder}/data\" socket_path = \"{folder}/api.sock\" {more} }}\n\
         plugins {{ DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" }} }}\n\
         KeyManager \"disk\" {{ plugin_data {{ keys_path = \"{folder}/data/keys.json\" }} }}\n\
         NodeAttestor \"join_token\" {{ plugin_data {{}} }} }}\n"
    );
    std::fs::write(&path, file).unwrap();
    text(&path).to_owned()
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server or an agent; it ends with this.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a server, and waits until it says that it is healthy.
    pub(crate) fn start(config: &str, folder: &Path) -> Self {
        Self::program("spire-server", config, &folder.join("api.sock"), &[])
    }

    pub(crate) fn program(name: &str, config: &str, socket: &Path, more: &[&str]) -> Self {
        let program = Program::called(name);
        let mut command = program.command();
        command.args(["run", "-config", config]).args(more);
        let mut running = Self(command.stdout(Stdio::null()).spawn().unwrap());
        while program
            .run(&["healthcheck", "-socketPath", text(socket)])
            .code
            != Some(0)
        {
            assert!(running.0.try_wait().unwrap().is_none(), "it ended");
        }
        running
    }

    /// Signals it, and gives its exit code.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
