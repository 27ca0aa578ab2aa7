//! `server backup` and `server restore`: Signet's own commands, on the files of a server that does not
//! run.

use std::path::Path;

use server::store::Backup;

use crate::console::say;
use crate::failure::Failure;
use crate::flags::Values;
use crate::session::Session;

/// Writes the store of a data directory to a new file.
pub(crate) async fn save(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let data_dir = required(values, "dataDir", "the data directory of the server")?;
    let file = required(values, "out", "the file to write")?;
    let backup = Backup::of_data_dir(Path::new(data_dir))
        .await
        .map_err(|error| Failure::chain(&error))?;
    backup
        .write(Path::new(file))
        .map_err(|error| Failure::chain(&error))?;
    say!(session.console, "Wrote {} to {file}.", summary(&backup));
    Ok(())
}

/// Makes the store of a data directory from such a file.
pub(crate) fn restore(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let data_dir = required(values, "dataDir", "the data directory of the server")?;
    let file = required(values, "in", "the backup to read")?;
    let backup = Backup::read(Path::new(file)).map_err(|error| Failure::chain(&error))?;
    backup
        .restore(Path::new(data_dir))
        .map_err(|error| Failure::chain(&error))?;
    say!(
        session.console,
        "Restored {} into {data_dir}.",
        summary(&backup)
    );
    Ok(())
}

fn summary(backup: &Backup) -> String {
    format!(
        "{} records of trust domain {:?}, as of revision {}",
        backup.records.len(),
        backup.trust_domain,
        backup.revision.number()
    )
}

fn required<'v>(values: &'v Values, flag: &str, what: &str) -> Result<&'v str, Failure> {
    let text = values.given(flag);
    text.ok_or_else(|| Failure::new(format!("{what} is required (-{flag})")))
}
