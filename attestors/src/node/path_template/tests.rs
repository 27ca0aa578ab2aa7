//! Facts about templates.

use proptest::prelude::*;

use super::*;

const NAMES: Names<'_> = Names {
    texts: &["PluginName", "Subject.CommonName"],
    lists: &["ValidPrincipals"],
    maps: &["URISanSelectors"],
};

fn values() -> Values {
    let text = |text: &str| Value::Text(text.to_owned());
    [
        ("PluginName".to_owned(), text("x509pop")),
        ("Subject.CommonName".to_owned(), text("Host.Example.org")),
        ("URISanSelectors.zone".to_owned(), text("a")),
        (
            "ValidPrincipals".to_owned(),
            Value::List(vec!["h1".to_owned()]),
        ),
    ]
    .into()
}

fn render(template: &str) -> Result<String, String> {
    let template = PathTemplate::parse(template, NAMES).map_err(|error| error.to_string())?;
    let own = TrustDomain::parse("example.org").unwrap();
    let id = template.agent_id(&own, &values());
    id.map(|id| id.path().to_owned())
        .map_err(|error| error.reason().to_owned())
}

#[test]
fn gives_the_paths_of_spires_documentation() {
    for (template, path) in [
        ("/{{ .PluginName }}/x", "/x509pop/x"),
        ("/{{.PluginName}}/x", "/x509pop/x"),
        ("/cn/{{ .Subject.CommonName }}", "/cn/Host.Example.org"),
        ("/static/{{ index .ValidPrincipals 0 }}", "/static/h1"),
        ("/{{ .URISanSelectors.zone }}", "/a"),
        ("/cn/ {{- .PluginName -}} /x", "/cn/x509pop/x"),
        (
            "/{{ .Subject.CommonName | lower | trimSuffix \".example.org\" }}",
            "/host",
        ),
        ("/{{ upper .PluginName }}", "/X509POP"),
        (
            "/{{ replace \".\" \"-\" .Subject.CommonName }}",
            "/Host-Example-org",
        ),
        ("/{{ trimPrefix `x509` .PluginName }}", "/pop"),
        ("/fixed", "/fixed"),
    ] {
        let expected = format!("/spire/agent{path}");
        assert_eq!(render(template), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_not_built_or_unknown_is_refused_by_its_name_when_it_is_read() {
    for (template, part) in [
        ("cn/x", "must begin with `/`"),
        ("/{{ .PluginName", "does not end"),
        ("/{{ if .PluginName }}x{{ end }}", "`if` is not built"),
        ("/{{ .PluginName | sha256sum }}", "`sha256sum` is not built"),
        ("/{{ .PluginName | trunc 3 }}", "`trunc` is not built"),
        ("/{{ .Issuer.CommonName }}", "no value `.Issuer.CommonName`"),
        ("/{{ .URISanSelectors }}", "no value `.URISanSelectors`"),
        ("/{{ .ValidPrincipals }}", "no value `.ValidPrincipals`"),
        ("/{{ index .PluginName 0 }}", "no value `.PluginName`"),
        ("/{{ $x := 1 }}", "not built"),
        ("/{{ (.PluginName) }}", "not built"),
        ("/{{ }}", "not built"),
        ("/{{ .PluginName | lower \"x\" }}", "`lower` does not have"),
        ("/{{ .PluginName | replace \"\\x\" \"\" }}", "not built"),
    ] {
        let refused = render(template).unwrap_err();
        assert!(refused.contains(part), "{template}: {refused}");
    }
}

#[test]
fn a_value_that_an_agent_lacks_gives_no_name() {
    for (template, reason) in [
        ("/{{ .URISanSelectors.other }}", "template_value_missing"),
        ("/{{ index .ValidPrincipals 1 }}", "template_value_missing"),
    ] {
        assert_eq!(render(template), Err(reason.to_owned()), "{template}");
    }
    // A path with a blank or an empty segment is none.
    for template in ["/a b", "/{{ .PluginName }}/", "/a//b", "/../x"] {
        assert!(render(template).is_err(), "{template}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}") {
        let _outcome = PathTemplate::parse(&text, NAMES);
        let _outcome = PathTemplate::parse(&format!("/{{{{{text}}}}}"), NAMES);
    }

    #[test]
    fn a_value_never_leaves_the_part_of_agents(value in ".{0,40}") {
        let template = PathTemplate::parse("/cn/{{ .PluginName }}", NAMES).unwrap();
        let values = [("PluginName".to_owned(), Value::Text(value))].into();
        let own = TrustDomain::parse("example.org").unwrap();
        if let Ok(id) = template.agent_id(&own, &values) {
            prop_assert!(id.path().starts_with("/spire/agent/cn/"));
        }
    }
}
