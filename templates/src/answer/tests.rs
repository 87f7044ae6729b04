use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect, expect_file};
use proptest::prelude::*;
use serde_json::json;

use pureboot_protocol::TemplateKind;

use super::*;

fn library(templates: &[(&str, &str)]) -> Library {
    let mut library = Library::default();
    for (name, body) in templates {
        library.insert((*name).to_owned(), (*body).to_owned());
    }
    library
}

fn values() -> serde_json::Value {
    json!({
        "node": {"hostname": "web-1", "mac_address": "52:54:00:12:34:56", "tags": ["db", "ssd"]},
        "meta": {"rack": "a'7", "note": "a\u{1}b: \"c\"\u{85}"},
        "secret": {"root_password": "••••"},
    })
}

fn render(body: &str) -> Result<String, AnswerError> {
    library(&[("t", body)]).render("t", &values())
}

fn check_error(body: &str, expected: Expect) {
    let told =
        render(body).map_or_else(|error| error.to_string(), |text| format!("no error: {text}"));
    expected.assert_eq(&told);
}

#[test]
fn a_template_is_filled_in_and_nothing_is_escaped() {
    for (body, expected) in [
        ("host {{ node.hostname }}\n", "host web-1\n"),
        ("{{ meta.rack }} <&>", "a'7 <&>"),
        ("{% for tag in node.tags %}\n- {{ tag }}\n{% endfor %}\nend\n", "- db\n- ssd\nend\n"),
        ("{% if meta.absent is defined %}x{% else %}y{% endif %}", "y"),
        ("{{ node.ip_address | default('dhcp') }}", "dhcp"),
        ("{{ meta.rack | quote }}", r"'a'\''7'"),
        ("{{ node.hostname | b64encode }}", "d2ViLTE="),
        ("{{ node.tags | tojson }}", r#"["db","ssd"]"#),
        ("{{ meta.note | yaml }}", r#""a\u0001b: \"c\"\u0085""#),
        ("{{ \"a\nb\" | indent(2) }}", "a\n  b"),
        ("echo ${HOME} { } %{x}", "echo ${HOME} { } %{x}"),
    ] {
        assert_eq!(render(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn an_unknown_variable_is_named_with_its_place_and_its_neighbours() {
    check_error(
        "a\n  b {{ node.hostnme }}",
        expect![
            "'t' line 2, column 8: 'node.hostnme' has no value here; the nearest names that have one: node.hostname, node.tags, meta.note (or say what else: | default('…'))"
        ],
    );
    check_error(
        "{{ nod.hostname }}",
        expect![
            "'t' line 1, column 4: 'nod.hostname' has no value here; the nearest names that have one: node.hostname, node.tags, meta.note (or say what else: | default('…'))"
        ],
    );
    check_error(
        "{% if meta.racks %}x{% endif %}",
        expect![
            "'t' line 1, column 7: 'meta.racks' has no value here; the nearest names that have one: meta.rack, meta.note, node.tags (or say what else: | default('…'))"
        ],
    );
    check_error(
        "{{ secret.rot_password | quote }}",
        expect![
            "'t' line 1, column 26: invalid operation: what stands before the filter has no value"
        ],
    );
}

#[test]
fn u8_what_does_not_compile_says_line_and_column() {
    check_error(
        "ok\n{{ a b }}",
        expect![
            "'t' line 2, column 6: syntax error: unexpected identifier, expected end of variable block"
        ],
    );
    check_error(
        "{% if x %}",
        expect![
            "'t' line 1, column 9: syntax error: unexpected end of input, expected end of block"
        ],
    );
    check_error(
        "a\n\n {{ 'ü' | nofilter }}",
        expect!["'t' line 3, column 11: unknown filter: filter nofilter is unknown"],
    );
    check_error(
        "x {{ open",
        expect![
            "'t' line 1, column 6: syntax error: unexpected end of input, expected end of variable block"
        ],
    );
}

fn check_refusal(body: &str, expected: Expect) {
    let library = library(&[("t", body), ("macros", "{% macro twice(x) %}{{ x }}{% endmacro %}")]);
    expected.assert_eq(
        &library.check("t").map_or_else(|error| error.to_string(), |()| "fine".to_owned()),
    );
}

#[test]
fn u8_a_name_that_nothing_stands_behind_is_found_before_any_machine_waits() {
    check_refusal(
        "a\n {{ 'ü|x' | lower | uper }}",
        expect!["'t' line 2, column 21: there is no filter 'uper'; the nearest: upper, lower, abs"],
    );
    check_refusal(
        "{% if false %}{% filter trimm %}x{% endfilter %}{% endif %}",
        expect![
            "'t' line 1, column 25: there is no filter 'trimm'; the nearest: trim, string, int"
        ],
    );
    check_refusal(
        "{% if node.x is not definde %}{% endif %}",
        expect![
            "'t' line 1, column 21: there is no test 'definde'; the nearest: defined, undefined, even"
        ],
    );
    check_refusal(
        "{{ node.hostname }} {{ now() }}",
        expect![
            "'t' line 1, column 24: there is no function 'now'; there is range, and what is a macro here or imported, as in {% from 'macros' import now %}"
        ],
    );
    check_refusal(
        "{{ node.tags.append (1) }}",
        expect![
            "'t' line 1, column 4: 'node.tags.append' cannot be called: values have no functions, only filters such as | lower"
        ],
    );
    for body in [
        "{% for tag in node.tags if (tag is startingwith 'd') %}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{% macro f(a, b=range(2)) %}{{ a }}{{ caller() }}{% endmacro %}{% call f (1) %}x{% endcall %}{{ {'is': 1}.is }}",
        "{% from 'macros' import twice as two %}{{ two(meta.rack | default('x', true)) }}",
        "{% import 'macros' as m %}{{ m.twice(1) }}{% block a %}b{% endblock %}{{ self.a() }}",
        "{% if node.hostname %}{% from 'macros' import twice, twice as two %}{% endif %}{{ two(1) }}{{ twice(1) }}",
        "{% raw %}{{ now() | nothing }}{% endraw %}{# {{ now() }} #}{{ '{{ now() }} | nothing' }}",
        "{% set x = (1 if not (2 is odd) else 3) %}{{ x is divisibleby(3) or x in (1, 2) and not (x == 1.5) }}",
    ] {
        check_refusal(body, expect!["fine"]);
        library(&[("t", body), ("macros", "{% macro twice(x) %}{{ x }}{% endmacro %}")])
            .render("t", &values())
            .expect(body);
    }
}

#[test]
fn u8_every_filter_test_and_function_that_is_there_is_known_to_be() {
    for filter in filters::FILTERS {
        assert_eq!(library(&[("t", &format!("{{{{ x | {filter} }}}}"))]).check("t"), Ok(()));
    }
    for test in filters::TESTS {
        assert_eq!(library(&[("t", &format!("{{{{ x is {test} }}}}"))]).check("t"), Ok(()));
    }
}

#[test]
fn what_could_reach_out_is_not_there() {
    for body in [
        "{{ debug() }}",
        "{{ namespace() }}",
        "{{ now() }}",
        "{{ 'x' | urlencode }}",
        "{{ 'x' | safe }}",
        "{% include '/etc/passwd' %}",
        "{% include '../answer.rs' %}",
        "{% include node.hostname %}",
        "{% include ['a', 'b'] %}",
    ] {
        assert!(render(body).is_err(), "{body}");
    }
}

#[test]
fn a_template_is_made_of_others_and_errors_name_the_right_one() {
    let library = library(&[
        ("top", "{% extends \"base\" %}{% block body %}{% include 'part/disk' %}{% endblock %}"),
        ("base", "<{% block body %}{% endblock %}>"),
        ("part/disk", "{% from 'macros' import twice %}{{ twice(node.hostname) }}"),
        ("macros", "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}"),
        ("broken", "a\n{% include 'wrong' %}"),
        ("wrong", "\n\n {{ node.nothing }}"),
    ]);
    assert_eq!(library.render("top", &values()).as_deref(), Ok("<web-1web-1>"));
    let error = library.render("broken", &values()).expect_err("unknown");
    assert_eq!((error.template.as_str(), error.line, error.column), ("wrong", 3, 5));
    assert_eq!(library.check("broken"), Ok(()));
}

#[test]
fn includes_end_and_are_there() {
    let circle = library(&[("a", "{% include 'b' %}"), ("b", "x\n{% include 'a' %}")]);
    let error = circle.check("a").expect_err("a circle").to_string();
    expect!["'b' line 2, column 12: 'a' includes 'b' includes 'a': that has no end"]
        .assert_eq(&error);
    let missing = library(&[("a", "{% include 'b' %}")]).check("a").expect_err("missing");
    assert_eq!(missing.message, "there is no template 'b' to include");
    let chain = |depth: usize| {
        let mut library = Library::default();
        for at in 0..depth {
            let next = if at + 1 == depth {
                String::new()
            } else {
                format!("{{% include 't{}' %}}", at + 1)
            };
            library.insert(format!("t{at}"), next);
        }
        library.check("t0")
    };
    assert_eq!(chain(INCLUDE_DEPTH_MAX), Ok(()));
    assert!(chain(INCLUDE_DEPTH_MAX + 1).is_err());
    let many: String = (0..INCLUDES_MAX).map(|at| format!("{{% include 't{at}' %}}")).collect();
    let mut crowd = library(&[("many", &many)]);
    for at in 0..INCLUDES_MAX {
        crowd.insert(format!("t{at}"), String::new());
    }
    assert!(crowd.check("many").is_err());
}

#[test]
fn only_what_the_compiler_takes_for_an_include_is_one() {
    let body = "{# {% include 'comment' %} #}{% raw %}{% include 'raw' %}{% endraw %}\
        {{ \"{% include 'text' %}\" }}{%- include \"one\" ignore missing -%}{% set x = '%}' %}{% import 'two' as t %}\
        {%+ include 'three' %} {{ '}}' }}{% if x %}{% include 'four' %}{% endif %}";
    let names: Vec<_> =
        includes("t", body).expect("literals").into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["one", "two", "three", "four"]);
}

#[test]
fn a_run_and_its_output_are_limited() {
    let long = "{% for a in range(1000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    let error = render(long).expect_err("too long");
    assert!(error.message.starts_with("this takes too long"), "{error}");
    let large = "{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}";
    let error = render(large).expect_err("too large");
    assert!(error.message.contains("larger than 1048576 bytes"), "{error}");
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(render(deep).is_err());
}

#[test]
fn h23_an_error_never_tells_a_value() {
    let library = library(&[("t", "{{ secret.password + 1 }}{{ secret.password | int }}")]);
    let values = json!({"secret": {"password": "correct horse"}});
    let error = library.render("t", &values).expect_err("no number").to_string();
    assert!(!error.contains("horse"), "{error}");
    let int = "{{ secret.password | int }}{{ secret.password | nothing }}";
    let error = super::tests::library(&[("t", int)])
        .render("t", &values)
        .expect_err("no number")
        .to_string();
    assert!(!error.contains("horse"), "{error}");
}

#[test]
fn h23_a_file_is_known_by_the_secrets_that_it_and_what_it_includes_name() {
    let library = library(&[
        (
            "top",
            "{% include 'part' %}{{ secret.root | quote }}{% if x %}{{ secret.wifi.x }}{% endif %}",
        ),
        ("part", "{% for secret in meta.list %}{{ secret.local }}{% endfor %}{{ secret.disk }}"),
        ("none", "{# secret.a #}{{ meta.secret }} secret.b"),
        ("index", "{{ secret['root'] }}"),
        ("all", "{% for name, text in secret | items %}{{ text }}{% endfor %}"),
    ]);
    let these =
        |names: &[&str]| Ok(Secrets::These(names.iter().map(|name| (*name).to_owned()).collect()));
    assert_eq!(library.secrets("top"), these(&["disk", "root", "wifi"]));
    assert_eq!(library.secrets("none"), these(&[]));
    assert_eq!(library.secrets("index"), Ok(Secrets::Any));
    assert_eq!(library.secrets("all"), Ok(Secrets::Any));
}

#[test]
fn a_file_that_its_reader_would_not_understand_is_remarked_on() {
    for (kind, good, bad) in [
        (TemplateKind::CloudInit, "#cloud-config\nusers: []\n", "users: []\n"),
        (TemplateKind::CloudInit, "instance-id: a\n", "#cloud-config\na:\n\t- b\n"),
        (
            TemplateKind::Autoinstall,
            "#cloud-config\nautoinstall:\n  version: 1\n",
            "#cloud-config\n",
        ),
        (TemplateKind::Kickstart, "text\n%packages\n%end\n", "%packages\n%post\n%end\n"),
        (TemplateKind::Preseed, "d-i debian-installer/locale string C\n", "# nothing\n"),
        (TemplateKind::Script, "#!/bin/sh\n", "echo\n"),
        (TemplateKind::Script, "#!/bin/sh\n", "#!/bin/sh\r\n"),
    ] {
        assert_eq!(warnings(kind, good), Vec::<String>::new());
        assert_eq!(warnings(kind, bad).len(), 1, "{bad}");
    }
}

proptest! {
    #[test]
    fn u8_any_text_is_a_template_or_an_error(body in "(\\{[%#{]|[%#}]\\}|include|raw|endraw|'|\"|[a-z |.-]|\\PC){0,30}") {
        let told = library(&[("t", &body)]).check("t");
        if let Err(error) = told {
            prop_assert!(error.line >= 1 && error.column >= 1);
        }
    }

    #[test]
    fn a_quoted_word_stays_one_word(text in "\\PC{0,40}") {
        let values = json!({"meta": {"x": text.clone()}});
        let quoted = library(&[("t", "{{ meta.x | quote }}")]).render("t", &values).expect("a text");
        let inner = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
        prop_assert_eq!(inner.map(|inner| inner.replace(r"'\''", "'")), Some(text));
    }
}

/// The templates that operators begin with, by kind and file.
const STARTERS: [(TemplateKind, &str, &str); 6] = [
    (TemplateKind::Preseed, "preseed/debian.cfg", include_str!("../../preseed/debian.cfg")),
    (TemplateKind::Kickstart, "kickstart/el9.ks", include_str!("../../kickstart/el9.ks")),
    (
        TemplateKind::Autoinstall,
        "autoinstall/ubuntu.user-data",
        include_str!("../../autoinstall/ubuntu.user-data"),
    ),
    (
        TemplateKind::CloudInit,
        "autoinstall/ubuntu.meta-data",
        include_str!("../../autoinstall/ubuntu.meta-data"),
    ),
    (
        TemplateKind::CloudInit,
        "cloud-init/base.user-data",
        include_str!("../../cloud-init/base.user-data"),
    ),
    (TemplateKind::Script, "script/report.sh", include_str!("../../script/report.sh")),
];

#[test]
fn every_starter_is_byte_for_byte_what_was_agreed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("expected");
    let values = fs::read_to_string(folder.join("case.json")).expect("the case");
    let values = serde_json::from_str(&values).expect("JSON");
    for (kind, name, body) in STARTERS {
        let library = library(&[(name, body)]);
        let text = library.render(name, &values).expect(name);
        assert_eq!(warnings(kind, &text), Vec::<String>::new(), "{name}");
        expect_file![folder.join(name)].assert_eq(&text);
    }
}

#[test]
fn a_starter_says_what_it_needs() {
    for (_, name, body) in STARTERS {
        let error = library(&[(name, body)]).render(name, &json!({})).expect_err(name);
        assert!(error.message.contains("has no value"), "{error}");
    }
}
