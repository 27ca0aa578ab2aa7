//! An operator replaces an authority, and the server fails or dies at any point of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::{Blow, Faults};

/// What an operator, or time, does.
#[derive(Clone, Copy, Debug)]
enum Op {
    Prepare(Kind),
    /// The authority that is prepared.
    Activate(Kind),
    /// The one that is old.
    Taint(Kind),
    Revoke(Kind),
    /// Hours pass, and what is due by then is done.
    Wait(u64),
}

/// Where an operation is struck.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Point {
    /// Custody cannot keep the new key.
    Key,
    /// The commit is not made: the key is there, and nothing that names it.
    BeforeCommit,
    /// The commit is made, and nobody hears of it.
    AfterCommit,
    /// The index does not reach the commit.
    Index,
}

impl Point {
    const ALL: [Self; 4] = [
        Self::Key,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::Index,
    ];
}

/// A way out of two leaked keys, twice: the slots are used anew.
fn all_steps() -> Vec<Op> {
    let of = |kind| {
        [
            Op::Prepare(kind),
            Op::Activate(kind),
            Op::Taint(kind),
            Op::Revoke(kind),
        ]
    };
    let both = [of(Kind::X509), of(Kind::Jwt)].concat();
    [both.clone(), both].concat()
}

/// A machine with a server on it.
struct Machine {
    store: Store,
    faults: Faults,
    folder: tempfile::TempDir,
    clock: Clock,
    blind: Arc<AtomicBool>,
    server: Server,
}

impl Machine {
    async fn start() -> Self {
        let (store, faults) = Store::memory_with_faults();
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(now());
        let blind = Arc::default();
        let server = serve(&store, folder.path(), &clock, &blind).await;
        Self {
            store,
            faults,
            folder,
            clock,
            blind,
            server,
        }
    }

    /// Ends the server as a kill would, and starts it again on what is stored.
    async fn restart(self) -> Self {
        self.server.stop().await;
        let server = serve(&self.store, self.folder.path(), &self.clock, &self.blind).await;
        Self { server, ..self }
    }

    async fn perform(&self, op: Op) -> Result<(), RotateError> {
        let authorities = &self.server.authorities;
        let id = |known: Option<Known>| known.map(|known| known.authority_id).unwrap_or_default();
        match op {
            Op::Prepare(kind) => authorities.prepare(kind).await.map(|_| ()),
            Op::Activate(kind) => {
                let prepared = id(authorities.states(kind).await.prepared);
                authorities.activate(kind, &prepared).await.map(|_| ())
            }
            Op::Taint(kind) => {
                let old = id(authorities.states(kind).await.old);
                authorities.taint(kind, &old).await.map(|_| ())
            }
            Op::Revoke(kind) => {
                let old = id(authorities.states(kind).await.old);
                authorities.revoke(kind, &old).await.map(|_| ())
            }
            Op::Wait(hours) => {
                self.clock.sleep(Duration::from_secs(hours * 3_600)).await;
                Ok(())
            }
        }
    }

    /// The same with a fault on the way. Whether it is met depends on the operation.
    async fn perform_struck(&self, op: Op, point: Point) {
        let (keys, gone) = (
            self.folder.path().join("keys"),
            self.folder.path().join("gone"),
        );
        match point {
            Point::Key => std::fs::rename(&keys, &gone).unwrap(),
            Point::BeforeCommit => self.faults.strike(Blow::Before),
            Point::AfterCommit => self.faults.strike(Blow::After),
            Point::Index => self.blind.store(true, Ordering::Relaxed),
        }
        let _outcome = self.perform(op).await;
        match point {
            Point::Key => std::fs::rename(&gone, &keys).unwrap(),
            Point::BeforeCommit | Point::AfterCommit => self.faults.fail_next(0),
            Point::Index => self.blind.store(false, Ordering::Relaxed),
        }
    }

    /// What must hold at any time.
    async fn check(&self) {
        let (_, records) = self.store.snapshot().await.unwrap();
        check_state(&records);
        let bundle = bundle(&self.store).await;
        let (x509, jwt) = self.server.authorities.active_ids();
        if self.signs(Kind::X509).await {
            let mut all = bundle.x509_authorities.iter();
            let signer = all.find(|authority| authority.authority_id() == x509);
            assert!(!signer.expect("it is in the stored bundle").tainted);
        }
        if self.signs(Kind::Jwt).await {
            let signer = bundle.jwt_authority(&jwt);
            assert!(!signer.expect("it is in the stored bundle").tainted);
            self.check_signature(&bundle);
        }
    }

    /// Whether there is an authority that has not ended, which it does when faults last for days.
    async fn signs(&self, kind: Kind) -> bool {
        let active = self.server.authorities.states(kind).await.active;
        active.is_some_and(|known| known.not_after > self.clock.now())
    }

    /// The stored bundle vouches for what is signed.
    fn check_signature(&self, bundle: &Bundle) {
        let id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let request = JwtSvidRequest {
            id: &id,
            audience: &["b".to_owned()],
            ttl: Duration::from_secs(60),
            include_jti: false,
        };
        let now = self.clock.now();
        let issued = self.server.authorities.sign_jwt_svid(&request, now);
        jwt::validate(&issued.unwrap().token, "b", |_| Some(bundle), now).unwrap();
    }

    /// What must hold after a start: no more than two of a kind live, and custody has no key of ours
    /// that none of them has.
    async fn check_started(&self) {
        self.check().await;
        let mut live = 0;
        for kind in [Kind::X509, Kind::Jwt] {
            let states = self.server.authorities.states(kind).await;
            assert!(states.active.is_some());
            let of_kind = [states.active, states.prepared, states.old];
            let of_kind = of_kind.into_iter().flatten().count();
            assert!(of_kind <= 2);
            live += of_kind;
        }
        let kept = std::fs::read(self.folder.path().join("keys/keys.json")).unwrap();
        let kept = identity::key::parse_key_file(&kept).unwrap();
        assert_eq!(kept.len(), live, "{:?}", kept.keys());
    }

    /// Replaces both authorities, as if nothing had ever happened.
    async fn still_works(&self) {
        for kind in [Kind::X509, Kind::Jwt] {
            let before = self.server.authorities.active_ids();
            for op in [
                Op::Prepare(kind),
                Op::Activate(kind),
                Op::Taint(kind),
                Op::Revoke(kind),
            ] {
                self.perform(op).await.unwrap();
                self.check().await;
            }
            assert_ne!(self.server.authorities.active_ids(), before);
        }
    }
}

async fn serve(
    store: &Store,
    folder: &std::path::Path,
    clock: &Clock,
    blind: &Arc<AtomicBool>,
) -> Server {
    std::fs::create_dir_all(folder.join("keys")).unwrap();
    let tasks = TaskGroup::new(Shutdown::new().0);
    let blind = Arc::clone(blind);
    let visible = Visible::new(move |_| {
        let is_blind = blind.load(Ordering::Relaxed);
        Box::pin(async move {
            if is_blind {
                Err("the feed is stalled".into())
            } else {
                Ok(())
            }
        })
    });
    let deps = Deps {
        store: store.clone(),
        keys: Keys::disk(&folder.join("keys/keys.json")).unwrap(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        visible,
    };
    let authorities = Authorities::start(Config::new(own()), deps).await.unwrap();
    Server { authorities, tasks }
}

#[tokio::test(start_paused = true)]
async fn a_server_killed_at_any_step_of_a_replacement_comes_back_sound() {
    let steps = all_steps();
    let mut struck = 0;
    for (at, op) in steps.iter().enumerate() {
        for point in Point::ALL {
            let machine = Machine::start().await;
            for op in &steps[..at] {
                machine.perform(*op).await.unwrap();
            }
            machine.perform_struck(*op, point).await;
            machine.check().await;
            let machine = machine.restart().await;
            machine.check_started().await;
            machine.still_works().await;
            machine.restart().await.check_started().await;
            struck += 1;
        }
    }
    assert!(struck > 50, "only {struck}");
}

fn any_op() -> impl Strategy<Value = Op> {
    let kind = || prop::sample::select(vec![Kind::X509, Kind::Jwt]);
    prop_oneof![
        3 => kind().prop_map(Op::Prepare),
        3 => kind().prop_map(Op::Activate),
        2 => kind().prop_map(Op::Taint),
        2 => kind().prop_map(Op::Revoke),
        1 => (1..14_u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is done, struck, and survived or not.
    #[test]
    fn no_fault_ever_lets_an_authority_sign_that_is_not_in_the_stored_bundle(
        ops in prop::collection::vec((any_op(), prop::option::of(prop::sample::select(Point::ALL.to_vec())), any::<bool>()), 1..16),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut machine = Machine::start().await;
            for (op, point, dies) in ops {
                match point {
                    Some(point) => machine.perform_struck(op, point).await,
                    // Many cannot be done now, and are refused.
                    None => drop(machine.perform(op).await),
                }
                machine.check().await;
                if dies {
                    machine = machine.restart().await;
                    machine.check_started().await;
                }
            }
            let machine = machine.restart().await;
            machine.check_started().await;
            machine.still_works().await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_hears_of_its_own_commit_goes_on_without_a_restart() {
    for (at, op) in all_steps().into_iter().enumerate() {
        let machine = Machine::start().await;
        for before in &all_steps()[..at] {
            machine.perform(*before).await.unwrap();
        }
        machine.perform_struck(op, Point::AfterCommit).await;
        // The next step may be the one that finds the journal another than it was left.
        let kind = match op {
            Op::Prepare(kind) | Op::Activate(kind) | Op::Taint(kind) | Op::Revoke(kind) => kind,
            Op::Wait(_) => continue,
        };
        let _found = machine.perform(Op::Prepare(kind)).await;
        machine.check().await;
        machine.still_works().await;
        machine.restart().await.check_started().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_preparation_gives_up_what_was_prepared_before_since_its_key_is_gone() {
    for kind in [Kind::X509, Kind::Jwt] {
        let machine = Machine::start().await;
        machine.perform(Op::Prepare(kind)).await.unwrap();
        machine
            .perform_struck(Op::Prepare(kind), Point::BeforeCommit)
            .await;
        let authorities = &machine.server.authorities;
        assert_eq!(authorities.states(kind).await.prepared, None);
        machine.perform(Op::Prepare(kind)).await.unwrap();
        machine.perform(Op::Activate(kind)).await.unwrap();
        let active = machine.server.authorities.active_ids();
        let machine = machine.restart().await;
        assert_eq!(machine.server.authorities.active_ids(), active);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_goes_away_leaves_no_step_half_done() {
    let machine = Machine::start().await;
    let before = machine.server.authorities.active_ids();
    machine.perform(Op::Prepare(Kind::X509)).await.unwrap();
    {
        let step = machine.perform(Op::Activate(Kind::X509));
        let mut step = std::pin::pin!(step);
        // It has begun, and whoever waits for it is gone.
        let waker = futures_util::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(step.as_mut().poll(&mut context).is_pending());
    }
    while machine.server.tasks.running() > 2 {
        tokio::task::yield_now().await;
    }
    assert_ne!(machine.server.authorities.active_ids().0, before.0);
    machine.still_works().await;
}
