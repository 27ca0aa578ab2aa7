//! Signet's own stream, by which a server pushes.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream;
use identity::entry::EntryId;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use prost::Message;
use proto::signet::agent as wire;
use proto::signet::agent::feed_client::FeedClient;
use proto::signet::agent::follow_response::Message as Kind;
use tonic::Code as Grpc;
use tonic::transport::Channel;

use super::convert::{self, protocol};
use crate::upstream::UpstreamError;
use crate::upstream::feed::{Followed, Part, Piece, Position, Stamp, Told};

/// The server keeps its messages to 1 MiB. Only an entry that is larger by itself makes a larger
/// one, and none comes into a server by more than 4 MiB.
const MAX_MESSAGE_BYTES: usize = 5 << 20;
/// A lineage is a name that a store gave itself.
const MAX_LINEAGE_BYTES: usize = 256;
/// How long the server may take to begin.
const START_DEADLINE: Duration = Duration::from_secs(15);
/// The interval of a server that names none, or none that makes sense.
const USUAL_KEEPALIVE: Duration = Duration::from_secs(15);
/// Within these the server names its interval.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

pub(super) async fn follow(
    channel: Channel,
    own: &SpiffeId,
    held: Option<Position>,
) -> Result<Option<Followed>, UpstreamError> {
    let opened = tokio::time::timeout(START_DEADLINE, open(channel, own, held));
    opened
        .await
        .unwrap_or_else(|_late| Err(UpstreamError::Unavailable("the feed did not begin".into())))
}

async fn open(
    channel: Channel,
    own: &SpiffeId,
    held: Option<Position>,
) -> Result<Option<Followed>, UpstreamError> {
    let held = held.map(|held| wire::Position {
        lineage: held.lineage.into(),
        revision: held.revision,
        digest: held.digest.to_vec().into(),
    });
    let mut client = FeedClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut messages = match client.follow(wire::FollowRequest { held }).await {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Grpc::Unimplemented => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let start = match messages.message().await {
        Ok(Some(first)) => first.message,
        Ok(None) => return Err(protocol("its feed ended before it began")),
        Err(status) if status.code() == Grpc::Unimplemented => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let Some(Kind::Start(start)) = start else {
        return Err(protocol("its feed does not begin with the start"));
    };
    let own = own.clone();
    let parts = messages.filter_map(move |message| {
        let part = message
            .map_err(UpstreamError::from)
            .and_then(|message| part(message, &own));
        std::future::ready(part.transpose())
    });
    // A feed that ends without a word ended because its server did.
    let ended = stream::once(async {
        Err(UpstreamError::Unavailable(
            "the server ended the feed".into(),
        ))
    });
    Ok(Some(Followed {
        resumed: start.resumed,
        keepalive: keepalive(start.keepalive.and_then(|told| told.try_into().ok())),
        parts: parts.chain(ended).boxed(),
    }))
}

fn keepalive(told: Option<Duration>) -> Duration {
    let (shortest, longest) = KEEPALIVE;
    match told {
        Some(told) if !told.is_zero() => told.clamp(shortest, longest),
        _ => USUAL_KEEPALIVE,
    }
}

/// What a message tells; nothing, if it is of a kind that is not known here.
fn part(message: wire::FollowResponse, own: &SpiffeId) -> Result<Option<Part>, UpstreamError> {
    match message.message {
        Some(Kind::Change(change)) => piece(&change, own).map(|piece| Some(Part::Piece(piece))),
        Some(Kind::Keepalive(_)) => Ok(Some(Part::Keepalive)),
        Some(Kind::Start(_)) => Err(protocol("its feed begins twice")),
        None => Ok(None),
    }
}

fn piece(change: &wire::Change, own: &SpiffeId) -> Result<Piece, UpstreamError> {
    let mut piece = Piece {
        bytes: change.encoded_len(),
        ..Piece::default()
    };
    for id in &change.removed_entries {
        let known = EntryId::parse(id).ok();
        piece.told.extend(known.map(|id| (id, Told::Removed)));
    }
    for entry in &change.entries {
        let read = convert::entry(entry, own).map(Arc::new);
        // One without a proper id has been passed over with a warning, and cannot be counted either.
        let Ok(id) = EntryId::parse(&entry.id) else {
            continue;
        };
        let stamp = || Stamp {
            revision: entry.revision_number,
            created_at: convert::seconds(entry.created_at).unwrap_or(UNIX_EPOCH),
        };
        let told = read.map_or_else(|| Told::Unreadable(stamp()), Told::Entry);
        piece.told.push((id, told));
    }
    for bundle in &change.bundles {
        let of = trust_domain(&bundle.trust_domain)?;
        let bundle = convert::bundle(bundle, &of)?;
        piece.bundles.insert(of, Some(Arc::new(bundle)));
    }
    for name in &change.removed_bundles {
        piece.bundles.insert(trust_domain(name)?, None);
    }
    piece.position = change.position.as_ref().map(position).transpose()?;
    Ok(piece)
}

fn trust_domain(name: &str) -> Result<TrustDomain, UpstreamError> {
    TrustDomain::parse(name).map_err(|error| UpstreamError::Protocol {
        what: "a bundle has a malformed trust domain",
        source: Some(error.into()),
    })
}

fn position(position: &wire::Position) -> Result<Position, UpstreamError> {
    if position.lineage.len() > MAX_LINEAGE_BYTES {
        return Err(protocol("the lineage of a position is too long"));
    }
    let digest = position.digest.as_ref().try_into();
    let digest =
        digest.map_err(|_size| protocol("the digest of a position does not have sixteen bytes"))?;
    Ok(Position {
        lineage: position.lineage.to_vec(),
        revision: position.revision,
        digest,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::spire::types;

    use super::*;
    use crate::upstream::fake::{Ca, trust_domain};

    fn own() -> SpiffeId {
        SpiffeId::from_path(&trust_domain(), "/spire/agent/join_token/t").unwrap()
    }

    fn entry(id: &str, selector: Option<&str>) -> types::Entry {
        let selector = selector.map(|value| types::Selector {
            r#type: "unix".to_owned(),
            value: value.to_owned(),
        });
        types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: "/w".to_owned(),
            }),
            selectors: selector.into_iter().collect(),
            revision_number: 3,
            ..Default::default()
        }
    }

    fn bundle(trust_domain: &str) -> types::Bundle {
        let asn1 = Ca::new().certificate.der().to_vec().into();
        types::Bundle {
            trust_domain: trust_domain.to_owned(),
            x509_authorities: vec![types::X509Certificate {
                asn1,
                tainted: true,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_told_as_such() {
        let change = wire::Change {
            entries: vec![
                entry("good", Some("uid:1")),
                entry("bad", None),
                entry("", None),
            ],
            removed_entries: vec!["gone".to_owned(), "no id".to_owned()],
            ..Default::default()
        };
        let piece = piece(&change, &own()).unwrap();
        let told: Vec<_> = piece
            .told
            .iter()
            .map(|(id, told)| (id.as_str(), told))
            .collect();
        assert!(
            matches!(
                told.as_slice(),
                [
                    ("gone", Told::Removed),
                    ("good", Told::Entry(_)),
                    ("bad", Told::Unreadable(Stamp { revision: 3, .. })),
                ]
            ),
            "{told:?}"
        );
    }

    #[test]
    fn bundles_come_with_their_taints_and_malformed_ones_break_the_protocol() {
        let mut change = wire::Change {
            bundles: vec![bundle("example.org")],
            removed_bundles: vec!["other.org".to_owned()],
            ..Default::default()
        };
        let read = piece(&change, &own()).unwrap();
        let told = read.bundles.get(&trust_domain()).unwrap().as_ref().unwrap();
        assert!(told.x509_authorities.first().unwrap().tainted);
        let other = TrustDomain::parse("other.org").unwrap();
        assert!(read.bundles.get(&other).unwrap().is_none());
        change.bundles.push(bundle("Not A Name"));
        assert_eq!(piece(&change, &own()).unwrap_err().reason(), "protocol");
    }

    #[test]
    fn the_interval_of_the_server_is_taken_within_bounds() {
        let seconds = Duration::from_secs;
        for (told, taken) in [
            (None, 15),
            (Some(seconds(0)), 15),
            (Some(Duration::from_millis(1)), 1),
            (Some(seconds(20)), 20),
            (Some(seconds(100_000)), 300),
        ] {
            assert_eq!(keepalive(told), seconds(taken));
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_sends_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = wire::FollowResponse::decode(bytes.as_slice()) {
                let _ = part(message, &own());
            }
        }
    }
}
