//! `server backup` and `server restore`: Signet's own commands.
//!
//! A server that runs is asked on its admin socket; of one that does not, the files are read. A backup is
//! restored into files alone.

use std::path::Path;

use bytes::BytesMut;
use proto::signet::server::SnapshotRequest;
use proto::signet::server::backup_client::BackupClient;
use server::store::{Backup, MAX_BACKUP_BYTES};
use tonic::transport::Channel;

use crate::console::{say, tell};
use crate::failure::Failure;
use crate::flags::Values;
use crate::session::Session;
use crate::socket::SERVER;
use crate::{admin, rpc};

/// Writes the store of a server to a new file.
pub(crate) async fn save(session: &mut Session, values: &Values) -> Result<(), Failure> {
    let file = required(values, "out", "the file to write")?;
    let (backup, source) = match connected(session, values).await? {
        Some(channel) => {
            let socket = SERVER.path(values, &session.environment)?;
            let source = format!("the server that runs at {}", socket.display());
            (asked(channel).await?, source)
        }
        None => {
            let data_dir = required(values, "dataDir", "the data directory of the server")?;
            let source = format!("the stopped server's files in {data_dir}");
            (read(Path::new(data_dir)).await?, source)
        }
    };
    backup
        .write(Path::new(file))
        .map_err(|error| Failure::chain(&error))?;
    let summary = summary(&backup);
    say!(session.console, "Wrote {summary} to {file}, from {source}.");
    Ok(())
}

/// Connects to the server, if it is to be asked: a socket is named and answers, or no files are named.
async fn connected(session: &mut Session, values: &Values) -> Result<Option<Channel>, Failure> {
    let files = values.given("dataDir").is_some();
    if files && !values.is_set("socketPath") && !values.is_set("instance") {
        return Ok(None);
    }
    match admin::connect(session, values).await {
        Ok(channel) => Ok(Some(channel)),
        Err(failure) if files => {
            tell!(
                session.console,
                "No server answers, so its files are read: {failure}"
            );
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Asks a server that runs. What broke off on the way has no sum, and is refused.
async fn asked(channel: Channel) -> Result<Backup, Failure> {
    let mut client = BackupClient::new(channel);
    let answer = client.snapshot(SnapshotRequest {}).await;
    let mut chunks = answer.map_err(|status| rpc::failed(&status))?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(message) = chunks
        .message()
        .await
        .map_err(|status| rpc::failed(&status))?
    {
        bytes.extend_from_slice(&message.chunk);
        if bytes.len() as u64 > MAX_BACKUP_BYTES {
            return Err(Failure::new("the server sends more than a backup can hold"));
        }
    }
    Backup::decode(&bytes.freeze())
        .map_err(|error| Failure::chain(&error).context("could not read what the server sent"))
}

/// Reads the files of a server that does not run.
async fn read(data_dir: &Path) -> Result<Backup, Failure> {
    let read = Backup::of_data_dir(data_dir).await;
    read.map_err(|error| match error.reason() {
        "store_locked" => Failure::chain(&error)
            .context("the server runs, so name its socket with -socketPath to have it asked"),
        _ => Failure::chain(&error),
    })
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
