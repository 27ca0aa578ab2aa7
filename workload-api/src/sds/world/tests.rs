//! What a stream of secrets answers, and what it must never do.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret as Message, secret::Type,
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::options::SdsOptions;
use crate::sds::fixture::{FIXTURE, NAMES, catalog, desk, names, one, responses, update, versions};
use crate::sds::resources::{Resource, SECRET_TYPE};

/// A stream that nothing ends.
struct Machine(World);

impl Machine {
    fn apply(&mut self, event: Event<Request>) -> Vec<Action> {
        self.0.apply(event).unwrap()
    }
}

fn machine() -> Machine {
    Machine(World::open(desk()))
}

fn asks(names: &[&str]) -> Request {
    Request {
        names: Names::read(names.iter().map(ToString::to_string)).unwrap(),
        type_url: SECRET_TYPE.to_owned(),
        ..Request::default()
    }
}

/// The same names again, as the answer to a response.
fn acknowledges(response: &Response, names: &[&str]) -> Request {
    Request {
        version: response.version.clone(),
        nonce: response.nonce.clone(),
        ..asks(names)
    }
}

fn secret(resource: &Resource) -> Type {
    let secret = Message::decode(resource.secret.body()).unwrap();
    secret.r#type.unwrap()
}

#[test]
fn several_names_of_one_identity_are_all_answered() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0, 1], true)));
    let wanted = [
        "ALL",
        "ROOTCA",
        "default",
        "spiffe://example.org",
        "spiffe://example.org/a",
    ];
    let response = one(machine.apply(Event::Requested(asks(&wanted))));
    assert_eq!(names(&response), wanted);
    assert_eq!(response.version, "1");
    assert_eq!(response.nonce, "00000007");
    assert_eq!(&*response.type_url, SECRET_TYPE);
}

#[test]
fn a_certificate_comes_with_its_chain_and_key() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let response = one(machine.apply(Event::Requested(asks(&["default"]))));
    let Type::TlsCertificate(certificate) = secret(&response.resources[0]) else {
        panic!("no certificate");
    };
    let svid = &FIXTURE.identities[0].svid;
    let chain = svid.chain_pem().into_bytes();
    let key = svid.key().to_pkcs8_pem().as_bytes().to_vec();
    assert_eq!(inline(certificate.certificate_chain), chain);
    assert_eq!(inline(certificate.private_key), key);
}

fn inline(source: Option<envoy_types::pb::envoy::config::core::v3::DataSource>) -> Vec<u8> {
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
    match source.unwrap().specifier.unwrap() {
        Specifier::InlineBytes(bytes) => bytes,
        other => panic!("not inline: {other:?}"),
    }
}

#[test]
fn no_names_stand_for_everything() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0, 1, 2], true)));
    let response = one(machine.apply(Event::Requested(asks(&[]))));
    assert_eq!(
        names(&response),
        [
            "spiffe://example.org",
            "spiffe://example.org/a",
            "spiffe://example.org/b",
            "spiffe://foreign.test",
        ]
    );
}

#[test]
fn all_bundles_stand_in_one_validator_each_by_its_trust_domain() {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::SpiffeCertValidatorConfig;
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], true)));
    let response = one(machine.apply(Event::Requested(asks(&["ALL"]))));
    let Type::ValidationContext(context) = secret(&response.resources[0]) else {
        panic!("no validation context");
    };
    let validator = context.custom_validator_config.unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let config = validator.typed_config.unwrap();
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
    let domains: Vec<_> = config.trust_domains.iter().map(|td| &td.name).collect();
    assert_eq!(domains, ["example.org", "foreign.test"]);
}

#[test]
fn without_the_spiffe_validator_a_bundle_is_plain_and_all_bundles_are_not_to_be_had() {
    let options = SdsOptions {
        disable_spiffe_cert_validation: true,
        ..SdsOptions::default()
    };
    let mut machine = Machine(World::open(Desk::new(Arc::new(options), 0)));
    machine.apply(Event::Updated(update(&[0], true)));
    let response = one(machine.apply(Event::Requested(asks(&["ROOTCA", "ALL"]))));
    assert_eq!(names(&response), ["ROOTCA"]);
    let Type::ValidationContext(context) = secret(&response.resources[0]) else {
        panic!("no validation context");
    };
    assert_eq!(
        inline(context.trusted_ca),
        FIXTURE.own.x509_pem().into_bytes()
    );
    assert!(context.custom_validator_config.is_none());
}

#[test]
fn an_unknown_name_is_left_pending_and_answered_when_it_appears() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let wanted = ["ROOTCA", "spiffe://example.org/b"];
    let actions = machine.apply(Event::Requested(asks(&wanted)));
    assert!(matches!(&actions[0],
        Action::Remark(Remark::Pending { names }) if names == &["spiffe://example.org/b"]));
    let first = one(actions);
    assert_eq!(names(&first), ["ROOTCA"]);
    assert!(
        machine
            .apply(Event::Requested(acknowledges(&first, &wanted)))
            .is_empty()
    );
    let second = one(machine.apply(Event::Updated(update(&[0, 1], false))));
    assert_eq!(names(&second), wanted);
}

#[test]
fn a_request_for_unknown_names_alone_gets_no_empty_answer() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[], false)));
    let actions = machine.apply(Event::Requested(asks(&["default"])));
    assert!(responses(actions).is_empty());
    let response = one(machine.apply(Event::Updated(update(&[0], false))));
    assert_eq!(names(&response), ["default"]);
}

#[test]
fn a_request_before_the_first_update_is_answered_by_it() {
    let mut machine = machine();
    assert!(
        machine
            .apply(Event::Requested(asks(&["default"])))
            .is_empty()
    );
    assert_eq!(
        one(machine.apply(Event::Updated(update(&[0], false)))).version,
        "1"
    );
}

#[test]
fn an_acknowledgement_is_not_answered_and_a_rotation_is_sent() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["default"]))));
    let acknowledgement = acknowledges(&first, &["default"]);
    assert!(machine.apply(Event::Requested(acknowledgement)).is_empty());
    let second = one(machine.apply(Event::Updated(update(&[3], false))));
    assert_eq!(second.version, "2");
    assert_ne!(second.nonce, first.nonce);
    assert_ne!(versions(&second), versions(&first));
}

#[test]
fn an_update_that_does_not_touch_the_names_sends_nothing() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["ROOTCA"]))));
    machine.apply(Event::Requested(acknowledges(&first, &["ROOTCA"])));
    assert!(
        machine
            .apply(Event::Updated(update(&[3], false)))
            .is_empty()
    );
    assert!(
        machine
            .apply(Event::Updated(update(&[3, 1], true)))
            .is_empty()
    );
}

#[test]
fn a_rejection_is_remarked_and_the_same_is_not_sent_again() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["default"]))));
    let rejection = Request {
        version: String::new(),
        error: Some("bad key".to_owned()),
        ..acknowledges(&first, &["default"])
    };
    let actions = machine.apply(Event::Requested(rejection));
    assert!(matches!(&actions[..],
        [Action::Remark(Remark::Rejected { error, times: 1 })] if error == "bad key"));
    assert!(
        machine
            .apply(Event::Updated(update(&[0], false)))
            .is_empty()
    );
    let second = one(machine.apply(Event::Updated(update(&[3], false))));
    assert_eq!(names(&second), ["default"]);
}

#[test]
fn an_acknowledgement_with_other_names_is_answered_at_once_with_the_current_version() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["default"]))));
    let more = acknowledges(&first, &["default", "ROOTCA"]);
    let second = one(machine.apply(Event::Requested(more)));
    assert_eq!(names(&second), ["ROOTCA", "default"]);
    assert_eq!(second.version, first.version);
    assert_ne!(second.nonce, first.nonce);
}

#[test]
fn a_request_that_answers_an_older_response_is_ignored() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["default"]))));
    one(machine.apply(Event::Updated(update(&[3], false))));
    let late = acknowledges(&first, &["ROOTCA"]);
    let actions = machine.apply(Event::Requested(late));
    assert!(matches!(&actions[..], [Action::Remark(Remark::StaleNonce)]));
}

#[test]
fn the_node_of_the_first_request_is_remembered() {
    use crate::sds::request::Node;
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let node = Node {
        metadata: Some(Struct {
            fields: [(
                "disable_spiffe_cert_validation".to_owned(),
                Value {
                    kind: Some(Kind::BoolValue(true)),
                },
            )]
            .into(),
        }),
        ..Node::default()
    };
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let told = Request {
        node: Some(NodeTraits::of(&node)),
        ..asks(&["ROOTCA"])
    };
    let first = one(machine.apply(Event::Requested(told)));
    let silent = acknowledges(&first, &["ROOTCA", "default"]);
    let second = one(machine.apply(Event::Requested(silent)));
    let version = |response: &Response| versions(response)["ROOTCA"].clone();
    assert_eq!(version(&second), version(&first));
    let untold = one(machine.apply(Event::Requested(Request {
        node: Some(NodeTraits::default()),
        ..acknowledges(&second, &["ROOTCA", "default"])
    })));
    assert_ne!(version(&untold), version(&first));
}

#[derive(Clone, Debug)]
enum Step {
    /// A request with these names; which of the nonces so far it has; whether it is a rejection.
    Ask(Vec<&'static str>, usize, bool),
    Update(Vec<usize>, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = prop::sample::select(NAMES.to_vec());
    let ask = (prop::collection::vec(name, 0..4), 0_usize..3, any::<bool>())
        .prop_map(|(names, nonce, rejection)| Step::Ask(names, nonce, rejection));
    let update = (
        prop::sample::subsequence(vec![0, 1, 2, 3], 0..=4),
        any::<bool>(),
    )
        .prop_map(|(identities, federated)| Step::Update(identities, federated));
    prop::collection::vec(prop_oneof![ask, update], 0..30)
}

#[test]
fn rejections_in_a_row_are_counted_and_long_ones_cut() {
    let mut machine = machine();
    machine.apply(Event::Updated(update(&[0], false)));
    let first = one(machine.apply(Event::Requested(asks(&["default"]))));
    let rejects = |error: &str| {
        Event::Requested(Request {
            error: Some(error.to_owned()),
            ..acknowledges(&first, &["default"])
        })
    };
    for expected in 1..5 {
        let actions = machine.apply(rejects(&"\u{e4}".repeat(5000)));
        let [Action::Remark(Remark::Rejected { error, times })] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!((error.len(), *times), (256, expected));
    }
    let acknowledgement = acknowledges(&first, &["default"]);
    assert!(machine.apply(Event::Requested(acknowledgement)).is_empty());
    let actions = machine.apply(rejects("again"));
    assert!(matches!(
        &actions[..],
        [Action::Remark(Remark::Rejected { times: 1, .. })]
    ));
}

proptest! {
    #[test]
    fn whatever_happens_the_last_answer_is_what_there_is(steps in steps()) {
        let mut machine = machine();
        let mut sent: Vec<Response> = Vec::new();
        let (mut asked, mut current) = (None, None);
        for step in steps {
            let event = match step {
                Step::Ask(names, back, rejection) => {
                    let answered = sent.len().checked_sub(1 + back).map(|index| &sent[index]);
                    let request = Request {
                        nonce: answered.map(|response| response.nonce.clone()).unwrap_or_default(),
                        version: answered.map(|response| response.version.clone()).unwrap_or_default(),
                        error: rejection.then(|| "no".to_owned()),
                        ..asks(&names)
                    };
                    if sent.last().is_none_or(|last| last.nonce == request.nonce) {
                        asked = Some(request.names.clone());
                    }
                    Event::Requested(request)
                }
                Step::Update(identities, federated) => {
                    let update = update(&identities, federated);
                    current = Some(Arc::clone(&update));
                    Event::Updated(update)
                }
            };
            let new = responses(machine.apply(event));
            prop_assert!(new.len() <= 1);
            sent.extend(new);

            let (Some(names), Some(update)) = (&asked, &current) else {
                prop_assert!(sent.is_empty());
                continue;
            };
            let options = SdsOptions::default();
            let found = catalog(update, &options).find(names).resources;
            let found = found.into_iter().map(|it| (it.name, it.secret.version().to_string()));
            let found: BTreeMap<_, _> = found.collect();
            if !found.is_empty() {
                prop_assert_eq!(versions(sent.last().unwrap()), found);
            }
        }
        for pair in sent.windows(2) {
            let version = |response: &Response| response.version.parse::<u64>().unwrap();
            prop_assert!(version(&pair[0]) <= version(&pair[1]));
        }
        let nonces: std::collections::BTreeSet<_> = sent.iter().map(|r| &r.nonce).collect();
        prop_assert_eq!(nonces.len(), sent.len());
        prop_assert!(sent.iter().all(|response| !response.resources.is_empty()));
    }
}
