//! Looking names up: a few at a time, whatever becomes of those who asked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fetch::FetchError;
use super::target::HostName;

/// How many names are looked up at a time. Each takes a thread of those that sign and store too.
const AT_A_TIME: usize = 16;

/// Looks names up.
#[derive(Clone, Debug)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Lookups {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }

    /// The addresses of a host.
    pub(super) async fn addrs(
        &self,
        host: &HostName,
        port: u16,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        if let Ok(addr) = host.as_str().parse::<Ipv4Addr>() {
            return Ok(vec![(addr, port).into()]);
        }
        let name = absolute(host);
        let look = move || Ok((name, port).to_socket_addrs()?.collect());
        self.run(look).await
    }

    /// A look-up cannot be broken off: its turn ends when it does, and not when nobody waits for it
    /// any more. Else whoever asks and hangs up would take one thread after the other.
    async fn run(
        &self,
        look: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let turn = Arc::clone(&self.0).try_acquire_owned();
        let turn = turn.map_err(|_full| FetchError::Busy)?;
        let job = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look()
        });
        let found = job.await.map_err(io::Error::other).flatten();
        found.map_err(FetchError::LookUp)
    }
}

/// A name with a dot is a whole one: else a resolver tries it below its search domains first, those of a
/// pod's namespace say, where others may have made a service of that name.
fn absolute(host: &HostName) -> String {
    let name = host.as_str();
    let end = if name.contains('.') { "." } else { "" };
    format!("{name}{end}")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn adv_a_lookup_keeps_its_turn_until_it_ends_though_nobody_waits_for_it() {
        let lookups = Lookups::new();
        let mut releases = Vec::new();
        for _ in 0..AT_A_TIME {
            let (release, released) = mpsc::channel::<()>();
            releases.push(release);
            let asked = lookups.run(move || {
                let _ended = released.recv();
                Ok(Vec::new())
            });
            let mut asked = Box::pin(asked);
            assert!(futures_util::poll!(&mut asked).is_pending());
            // The caller hangs up.
            drop(asked);
        }
        let one_more = lookups.run(|| Ok(Vec::new())).await;
        assert_eq!(one_more.unwrap_err().reason(), "busy");
        drop(releases);
        let all = u32::try_from(AT_A_TIME).unwrap();
        drop(lookups.0.acquire_many(all).await.unwrap());
        assert!(lookups.run(|| Ok(Vec::new())).await.is_ok());
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        let lookups = Lookups::new();
        let _all = lookups.0.acquire_many(16).await.unwrap();
        let host = HostName::parse("192.0.2.1").unwrap();
        let addrs = lookups.addrs(&host, 80).await.unwrap();
        assert_eq!(addrs, ["192.0.2.1:80".parse().unwrap()]);
        let host = HostName::parse("p1.example.org").unwrap();
        let busy = lookups.addrs(&host, 80).await.unwrap_err();
        assert_eq!(busy.reason(), "busy");
    }

    #[test]
    fn adv_a_name_with_a_dot_is_not_tried_below_search_domains() {
        for (name, looked_up) in [
            ("p1.example.org", "p1.example.org."),
            ("a.b", "a.b."),
            ("p1", "p1"),
        ] {
            assert_eq!(absolute(&HostName::parse(name).unwrap()), looked_up);
        }
    }
}
