//! Whether a credential that attests again is in the hands of its owner.
//!
//! A service-account token attests until it expires, so whoever steals one can become the agent. What
//! the server can see is that its agent is alive at another address. That alone is an alarm: networks
//! have more than one way out. It is a refusal if besides the token is no newer than the last one,
//! since a kubelet never goes back, and if the last attestation was beyond doubt, so that a thief who
//! came first does not keep the owner out. An owner who is refused all the same gets in by showing his
//! SVID, by 30 seconds of silence, or with the next token of his kubelet.
//!
//! Pure: what is known comes in, the verdict goes out.

use std::net::IpAddr;

use attestors::node::Credential;

use crate::presence::Place;
use crate::records::agents::Used;

/// Which SVID of the agent to be came with the attestation, by the key that it was made with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Possession {
    /// The one in use: this is the agent.
    Current,
    /// One that was replaced. Its key may be the owner's, or that of a thief who was in before.
    Former,
    None,
}

/// An attestation about to be recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented<'a> {
    pub(super) credential: &'a Credential,
    pub(super) from: Option<IpAddr>,
    pub(super) possession: Possession,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Nothing speaks against it.
    Ordinary,
    /// Let it in, and raise an alarm.
    Suspicious,
    /// Refuse it, and raise an alarm.
    Replay,
}

pub(super) fn judge(
    last: Option<&Used>,
    place: Option<Place>,
    presented: &Presented<'_>,
) -> Verdict {
    let Some(last) = last else {
        return Verdict::Ordinary;
    };
    // Another pod on the node is a rollout, and the API server said that this pod is there.
    if presented.possession == Possession::Current || last.holder != presented.credential.holder {
        return Verdict::Ordinary;
    }
    let Some(from) = presented.from else {
        return Verdict::Ordinary;
    };
    if last.from == Some(from) || place.is_some_and(|place| place.addr == from) {
        return Verdict::Ordinary;
    }
    let alive = place.is_some_and(|place| place.alive);
    let in_doubt = last.disputed || presented.possession == Possession::Former;
    if alive && !in_doubt && !is_newer(presented.credential, last) {
        return Verdict::Replay;
    }
    Verdict::Suspicious
}

/// What is remembered of an attestation that was let in.
pub(super) fn remember(last: Option<&Used>, verdict: Verdict, presented: &Presented<'_>) -> Used {
    let credential = presented.credential;
    let settled = presented.possession == Possession::Current
        || last.is_none_or(|last| {
            last.holder != credential.holder || is_newer(credential, last) || !last.disputed
        });
    Used {
        fingerprint: credential.fingerprint,
        issued_at: credential.issued_at,
        holder: credential.holder.clone(),
        from: presented.from,
        disputed: verdict == Verdict::Suspicious || !settled,
    }
}

/// Whether a credential was issued after the last one that was used.
fn is_newer(credential: &Credential, last: &Used) -> bool {
    match (credential.issued_at, last.issued_at) {
        (Some(this), Some(that)) => this > that,
        _ => credential.fingerprint != last.fingerprint,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const OWNER: &str = "10.0.0.1";
    const THIEF: &str = "192.0.2.9";

    /// The token of a pod that was issued at this minute.
    fn token(holder: &str, minute: u64) -> Credential {
        Credential {
            fingerprint: [u8::try_from(minute).unwrap(); 32],
            issued_at: Some(UNIX_EPOCH + Duration::from_secs(minute * 60)),
            holder: holder.to_owned(),
        }
    }

    fn place(addr: &str, alive: bool) -> Option<Place> {
        let addr = addr.parse().unwrap();
        Some(Place { addr, alive })
    }

    /// Plays attestations one after the other, each with where the agent is seen then.
    fn play(steps: &[(&Credential, &str, Possession, Option<Place>)]) -> Vec<Verdict> {
        let mut last = None;
        let mut verdicts = Vec::new();
        for (credential, from, possession, place) in steps {
            let presented = Presented {
                credential,
                from: Some(from.parse().unwrap()),
                possession: *possession,
            };
            let verdict = judge(last.as_ref(), *place, &presented);
            if verdict != Replay {
                last = Some(remember(last.as_ref(), verdict, &presented));
            }
            verdicts.push(verdict);
        }
        verdicts
    }

    use Possession::{Current, Former, None as Nothing};
    use Verdict::{Ordinary, Replay, Suspicious};

    #[test]
    fn an_owner_attests_as_often_as_it_likes() {
        let (old, new, other) = (token("a", 10), token("a", 20), token("b", 20));
        assert_eq!(
            play(&[
                (&old, OWNER, Nothing, None),
                // SPIRE's agent renews without showing its SVID; a restarted one has none.
                (&old, OWNER, Nothing, place(OWNER, true)),
                (&old, OWNER, Nothing, place(OWNER, false)),
                // Ours shows its SVID, and may have another way out.
                (&old, "10.9.9.9", Current, place(OWNER, true)),
                (&new, "10.9.9.9", Nothing, place("10.9.9.9", true)),
                // A new pod on the same node, while the old one is hardly gone.
                (&other, "10.0.0.7", Nothing, place("10.9.9.9", true)),
            ]),
            [Ordinary; 6]
        );
    }

    #[test]
    fn a_stolen_token_is_refused_while_its_owner_is_alive() {
        let (older, used) = (token("a", 5), token("a", 10));
        assert_eq!(
            play(&[
                (&used, OWNER, Nothing, None),
                (&used, THIEF, Nothing, place(OWNER, true)),
                (&older, THIEF, Nothing, place(OWNER, true)),
                (&used, THIEF, Nothing, place(OWNER, true)),
                (&used, OWNER, Nothing, place(OWNER, true)),
            ]),
            [Ordinary, Replay, Replay, Replay, Ordinary]
        );
    }

    #[test]
    fn an_owner_who_moved_waits_for_silence_or_the_next_token() {
        let (used, next) = (token("a", 10), token("a", 20));
        assert_eq!(
            play(&[
                (&used, OWNER, Nothing, None),
                (&used, "10.0.0.2", Nothing, place(OWNER, true)),
                (&used, "10.0.0.2", Nothing, place(OWNER, false)),
            ]),
            [Ordinary, Replay, Suspicious]
        );
        assert_eq!(
            play(&[
                (&used, OWNER, Nothing, None),
                (&next, "10.0.0.2", Nothing, place(OWNER, true)),
            ]),
            [Ordinary, Suspicious]
        );
    }

    #[test]
    fn a_thief_who_came_first_does_not_keep_the_owner_out() {
        let (used, stolen) = (token("a", 10), token("a", 20));
        assert_eq!(
            play(&[
                (&used, OWNER, Nothing, None),
                // A token that the owner did not use yet: seen, but let in.
                (&stolen, THIEF, Nothing, place(OWNER, true)),
                (&stolen, OWNER, Nothing, place(THIEF, true)),
                (&stolen, THIEF, Former, place(OWNER, true)),
                (&stolen, OWNER, Former, place(THIEF, true)),
                // Once the owner has shown the SVID in use, the doubt is over.
                (&stolen, OWNER, Current, place(OWNER, true)),
                (&stolen, THIEF, Nothing, place(OWNER, true)),
            ]),
            [
                Ordinary, Suspicious, Suspicious, Suspicious, Suspicious, Ordinary, Replay
            ]
        );
    }

    #[test]
    fn without_a_time_of_issue_the_very_token_counts() {
        let known = |fingerprint| Credential {
            fingerprint: [fingerprint; 32],
            issued_at: None,
            holder: "a".to_owned(),
        };
        assert_eq!(
            play(&[
                (&known(1), OWNER, Nothing, None),
                (&known(1), THIEF, Nothing, place(OWNER, true)),
                (&known(2), THIEF, Nothing, place(OWNER, true)),
            ]),
            [Ordinary, Replay, Suspicious]
        );
    }
}
