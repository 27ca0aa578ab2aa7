//! A server that can be told where to die.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use runtime::failpoint::VARIABLE;
use tempfile::TempDir;
use tests::api::admin_channel;
use tests::domain::{Domain, Plan};
use tests::programs::Make::Signet;

use super::sound::{Seen, Signing, check_stored};
use super::{Case, named};
use crate::operator::{Kind, Operator, Step};

/// Where the roots of the trust domain come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Roots {
    /// The server makes them.
    Own,
    /// They lie in files of an operator's PKI.
    Above,
}

/// A server, its state on disk, and the authority above it, if there is one.
pub(super) struct Machine {
    domain: Domain,
    above: Option<TempDir>,
}

impl Machine {
    pub(super) fn start(roots: Roots) -> Self {
        let plan = quiet();
        match roots {
            Roots::Own => Self::of(plan.start()),
            Roots::Above => {
                let folder = tempfile::tempdir().expect("a folder");
                write_root(folder.path());
                let files = folder.path().display();
                let plan = plan.plugin(&format!(
                    "UpstreamAuthority \"disk\" {{ plugin_data {{\n\
                     cert_file_path = \"{files}/ca.crt\"\nkey_file_path = \"{files}/ca.key\"\n}} }}"
                ));
                Self {
                    domain: plan.start(),
                    above: Some(folder),
                }
            }
        }
    }

    fn of(domain: Domain) -> Self {
        Self {
            domain,
            above: None,
        }
    }

    /// Lets the server die in a step, and judges what was stored and what the next start makes of it.
    pub(super) async fn die(&mut self, case: &Case) {
        // A point that the way there passes too is armed at its end.
        if case.is_shared() {
            self.lead_to(case).await;
            self.restart(Some(&case.point));
        } else {
            self.restart(Some(&case.point));
            self.lead_to(case).await;
        }
        let before = Seen::of(&self.domain).await;
        let signing = Signing::begin(&self.domain).await;
        let taken = self.operator().await.take(case.step, case.kind).await;
        assert!(taken.is_err(), "{case:?}: the point is never reached");
        self.see_it_dead();
        let signed = signing.end().await;
        self.rise().await.check_after(&before, case, &signed);
    }

    /// The same while the server starts for the first time.
    pub(super) async fn die_at_first_start(point: &str) {
        let mut machine = Self::of(quiet().variable(VARIABLE, point).launch());
        machine.see_it_dead();
        machine.rise().await;
    }

    /// The same while the server starts, and takes away the key of a preparation that was cut short.
    pub(super) async fn die_while_forgetting(&mut self, kind: Kind, point: &str) {
        self.restart(Some(&named("*.prepare.key_kept", kind)));
        let taken = self.operator().await.take(Step::Prepare, kind).await;
        assert!(taken.is_err(), "the preparation is not cut short");
        self.see_it_dead();
        self.arm(Some(point));
        self.domain.relaunch_server();
        self.see_it_dead();
        self.rise().await;
    }

    /// Does what comes before the step.
    async fn lead_to(&self, case: &Case) {
        // What is to be tainted must be signed by another than what signs then.
        if let Some(folder) = &self.above {
            write_root(folder.path());
        }
        let mut operator = self.operator().await;
        for step in Step::ALL.into_iter().filter(|step| *step < case.step) {
            let taken = operator.take(step, case.kind).await;
            assert!(taken.is_ok(), "{case:?}: {step:?}: {taken:?}");
        }
    }

    /// Starts the server that is dead, once what it left is judged, and sees what it serves.
    async fn rise(&mut self) -> Seen {
        check_stored(&self.domain).await;
        self.arm(None);
        self.domain.restart_server();
        let seen = Seen::of(&self.domain).await;
        seen.check(&self.domain).await;
        seen
    }

    fn restart(&mut self, point: Option<&str>) {
        self.arm(point);
        self.domain.crash_and_restart_server();
    }

    fn arm(&mut self, point: Option<&str>) {
        let variable = point.map(|point| (VARIABLE.to_owned(), point.to_owned()));
        self.domain.plan.server_variables = variable.into_iter().collect();
    }

    fn see_it_dead(&mut self) {
        let status = self.domain.server.wait();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    }

    async fn operator(&self) -> Operator {
        Operator::new(admin_channel(&self.domain.server_socket()).await)
    }
}

fn quiet() -> Plan {
    Plan::new(Signet).key(r#"log_level = "WARN""#)
}

/// Puts another root of an operator's PKI in its files.
fn write_root(folder: &Path) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "above");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(folder.join("ca.crt"), certificate.pem()).expect("a file");
    fs::write(folder.join("ca.key"), key.serialize_pem()).expect("a file");
}
