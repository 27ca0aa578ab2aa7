//! Where a command writes.
//!
//! One pair of streams, handed down from `main`, so that a test can read what a command said and no
//! command can write anywhere else. A reader that went away (`signet … | head -1`) is no error: the
//! rest of the output is dropped, as a shell user expects.

use std::fmt;
use std::io::{self, Write};

/// The two output streams of a command.
pub(crate) struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    lost: Option<io::Error>,
}

impl Console {
    /// Writes to the process's own streams.
    pub(crate) fn process() -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()))
    }

    pub(crate) fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            err,
            lost: None,
        }
    }

    /// Writes to standard output, without a line's end of its own.
    pub(crate) fn out(&mut self, text: fmt::Arguments<'_>) {
        Self::write(&mut *self.out, text, &mut self.lost);
    }

    /// Writes to standard error, without a line's end of its own.
    pub(crate) fn err(&mut self, text: fmt::Arguments<'_>) {
        Self::write(&mut *self.err, text, &mut None);
    }

    /// Flushes, and answers with the first failure of standard output, if it was not a reader's leaving.
    pub(crate) fn finish(&mut self) -> Option<io::Error> {
        if let Err(error) = self.out.flush() {
            Self::note(error, &mut self.lost);
        }
        self.lost.take()
    }

    fn write(to: &mut dyn Write, text: fmt::Arguments<'_>, lost: &mut Option<io::Error>) {
        // Flushed each time: what stands on a terminal or in a pipe is never behind what happened.
        if let Err(error) = to.write_fmt(text).and_then(|()| to.flush()) {
            Self::note(error, lost);
        }
    }

    fn note(error: io::Error, lost: &mut Option<io::Error>) {
        if error.kind() != io::ErrorKind::BrokenPipe && lost.is_none() {
            *lost = Some(error);
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Writes a line to standard output.
macro_rules! say {
    ($console:expr) => { $console.out(format_args!("\n")) };
    ($console:expr, $($arg:tt)*) => {{
        $console.out(format_args!($($arg)*));
        $console.out(format_args!("\n"));
    }};
}

/// Writes a line to standard error.
macro_rules! tell {
    ($console:expr) => { $console.err(format_args!("\n")) };
    ($console:expr, $($arg:tt)*) => {{
        $console.err(format_args!($($arg)*));
        $console.err(format_args!("\n"));
    }};
}

pub(crate) use {say, tell};

#[cfg(test)]
pub(crate) mod recorded {
    //! A console whose output a test can read.

    use std::io::{self, Write};
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::Console;

    #[derive(Clone, Default)]
    pub(crate) struct Tape(Arc<Mutex<Vec<u8>>>);

    impl Tape {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    impl Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn console() -> (Console, Tape, Tape) {
        let (out, err) = (Tape::default(), Tape::default());
        (
            Console::new(Box::new(out.clone()), Box::new(err.clone())),
            out,
            err,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lost(kind: io::ErrorKind) -> Option<io::Error> {
        let mut console = Console::new(Box::new(Failing(kind)), Box::new(io::sink()));
        say!(console, "one");
        say!(console, "two");
        console.finish()
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        assert!(lost(io::ErrorKind::BrokenPipe).is_none());
    }

    #[test]
    fn a_full_disk_under_standard_output_is_reported_once() {
        let error = lost(io::ErrorKind::StorageFull).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
