//! What every command is handed: where to write, the environment, the clock.

use agent::confine::Confinement;
use runtime::clock::Clock;

use crate::console::Console;
use crate::socket::Environment;

/// The surroundings of one run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    /// How the program was called.
    pub(crate) program: String,
    pub(crate) console: Console,
    pub(crate) environment: Environment,
    pub(crate) clock: Clock,
    /// What became of the confinement of an agent that is about to run.
    pub(crate) confinement: Option<Confinement>,
}
