//! Templates held against transformers, and against the limits.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{Now, Template};

/// What transformers renders, and what `host` refuses (`tests/fixtures/jinja/make.py`).
static EXPECTED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../../tests/fixtures/jinja/expected.json")).unwrap());
static VARIABLES: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../../tests/fixtures/jinja/variables.json")).unwrap());

/// Renders with the variables of the fixtures, in a thread with a stack as small as those that render rows.
fn render(source: &str) -> Result<String, String> {
    let source = source.to_owned();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let messages = VARIABLES["messages"].as_array().unwrap();
        let variables: Vec<_> = VARIABLES
            .iter()
            .filter(|(name, _)| *name != "messages")
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        let now = Now(EXPECTED["now"].as_u64().unwrap());
        let template = Template::new(&source, now).map_err(|error| error.to_string())?;
        template.render(messages, &variables).map_err(|error| error.to_string())
    });
    thread.unwrap().join().unwrap()
}

#[test]
fn renders_what_transformers_renders() {
    let cases = EXPECTED["cases"].as_array().unwrap();
    assert!(cases.len() > 1000);
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let source = case["template"].as_str().unwrap();
            let rendered = render(source);
            // Where transformers raises an error, so does this; the words are its own.
            let same = rendered.as_deref().ok() == case["text"].as_str();
            (!same).then(|| format!("{source:?}\n  wanted {}\n  got {rendered:?}", case["text"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_it_does_not_have_is_an_error() {
    for source in EXPECTED["refused"].as_array().unwrap() {
        let source = source.as_str().unwrap();
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn errors_name_what_is_wrong_and_the_line() {
    for (source, error) in [
        ("a\n{{ raise_exception('no ' + s) }}", "no Hello World (line 2 of the template)"),
        ("\n\n{{ missing.name }}", "`missing` is undefined (line 3 of the template)"),
        ("{{ d.name.first }}", "`name` is undefined: the dictionary has no such key (line 1 of the template)"),
        (
            "{% set x = 1 +\n 'a' %}",
            "`+` does not take values of types `int` and `str`; `~` joins them as text (line 1 of the template)",
        ),
        (
            "{% macro m(a) %}\n{{ a.b }}{% endmacro %}\n{{ m() }}",
            "the parameter `a` of the macro `m` is not given (line 2 of the template)",
        ),
        ("{% if n %}\n{% endfor %}", "unknown tag `endfor` (line 2 of the template)"),
        ("{% if n %}\n", "`{% endif %}` is missing (line 1 of the template)"),
        ("{{ n | nosuch }}", "no filter has the name `nosuch` (line 1 of the template)"),
        ("\n{{ n n }}", "expected `}}`, found `n` (line 2 of the template)"),
        ("{% do list.append(1) %}", "unknown tag `do` (line 1 of the template)"),
        (
            "{{ list.append(1) }}",
            "`append` of a value of type `list` is not open to templates (line 1 of the template)",
        ),
        ("{{ s.encode() }}", "`encode` is undefined: a value of type `str` has none (line 1 of the template)"),
    ] {
        assert_eq!(render(source).unwrap_err(), error, "{source}");
    }
}

#[test]
fn deep_sources_are_errors() {
    const MANY: usize = 100_000;
    let repeated = |before: &str, part: &str, after: &str| {
        let rest = if after.is_empty() { String::new() } else { after.repeat(MANY) };
        format!("{before}{}{rest}", part.repeat(MANY))
    };
    for source in [
        repeated("{{ ", "not ", "") + "1 }}",
        repeated("{{ ", "-", "") + "1 }}",
        repeated("{{ 1", "+1", "") + " }}",
        repeated("{{ 1", "*1", "") + " }}",
        repeated("{{ 1", "|abs", "") + " }}",
        repeated("{{ a", ".a", "") + " }}",
        repeated("{{ a", "[0]", "") + " }}",
        repeated("{{ a", "()", "") + " }}",
        repeated("{{ ", "1 if 1 else ", "") + "1 }}",
        repeated("{{ 1", " if 1", "") + " }}",
        repeated("{{ ", "(", ")") + " }}",
        repeated("{{ ", "[", "]") + " }}",
        repeated("{{ ", "{1:", "}") + " }}",
        repeated("{% for ", "(", ")") + " in x %}{% endfor %}",
        repeated("", "{%if 1%}", ""),
        repeated("", "{{", ""),
    ] {
        assert!(render(&source).is_err(), "{}", &source[..40]);
    }
    // What is long but not deep, Jinja2 renders too.
    assert_eq!(render(&(repeated("{{ 1", " and 1", "") + " }}")).unwrap(), "1");
    assert_eq!(render(&(repeated("{% if 0 %}", "{%elif 0%}", "")[..900_000].to_owned() + "{%endif%}")).unwrap(), "");
}

#[test]
fn values_that_grow_without_end_are_errors() {
    let growing = |start: &str, step: &str, end: &str| {
        format!(
            "{{% set ns = namespace(x={start}) %}}{{% for i in range(100000) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
        )
    };
    for source in [
        growing("'a'", "ns.x ~ ns.x", ""),
        growing("'a'", "ns.x + ns.x", ""),
        growing("[1]", "ns.x + ns.x", ""),
        growing("[1]", "[ns.x]", "{{ ns.x }}"),
        growing("{}", "{'a': ns.x}", "{{ ns.x | tojson }}"),
        growing("[1]", "ns.x | select", "{{ ns.x | list }}"),
        growing("[1]", "[ns.x].index", ""),
        growing("[1]", "cycler(ns.x)", ""),
        growing("'a' * 1000000", "[ns.x ~ i, ns.x]", ""),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}".into(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}".into(),
        "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}".into(),
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".into(),
        "{% macro m() %}{{ caller() }}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{% call m() %}x{% endcall %}".into(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}".into(),
        "{% set s = '日' * 1000000 %}{% for i in range(100000) %}{{ s[i] }}{% endfor %}".into(),
    ] {
        assert!(render(&source).is_err(), "{source}");
    }
    // Chains through namespaces and macros are freed without a level of the stack for each link.
    let chain = "{% set ns = namespace() %}{% for i in range(50000) %}{% set next = namespace(before=ns.x) %}{% set ns.x = next %}{% endfor %}ok";
    assert_eq!(render(chain).unwrap(), "ok");
    let chain = "{% set ns = namespace() %}{% for i in range(50000) %}{% set before = ns.m %}{% macro m() %}{% endmacro %}{% set ns.m = m %}{% endfor %}ok";
    assert_eq!(render(chain).unwrap(), "ok");
}

#[test]
fn sizes_are_asked_for_before_a_text_is_made() {
    for expression in [
        "'a' * 10**9",
        "'a' * 10**30",
        "[1] * 10**9",
        "range(10**9)",
        "range(10**30)",
        "'a'.ljust(10**9)",
        "'a'.rjust(10**18)",
        "'a'.center(10**9)",
        "'a' | center(10**9)",
        "'1'.zfill(10**18)",
        "'a' | indent(10**9)",
        "'%1000000000d' % 1",
        "'%*d' % (10**18, 1)",
        "'%.1000000000f' % 1",
        "'%.*e' % (10**18, 1)",
        "'%99999999999999999999d' % 1",
        "'{:>1000000000}'.format(1)",
        "'{:.1000000000f}'.format(1.5)",
        "'{:0100000000,}'.format(1)",
        "'\t'.expandtabs(10**9)",
        "[1] | tojson(indent=10**9)",
        "strftime_now('%1000000000Y')",
        "('a' * 1000000).replace('a', 'b' * 1000000)",
        "('a' * 1000000).replace('', 'b' * 1000000)",
        "('b' * 1000000).join('a' * 10000)",
        "('a' * 10000) | join('b' * 1000000)",
        "[1] | batch(10**12, 1) | list",
        "[1] | slice(10**12) | list",
        "9 ** 9 ** 9",
    ] {
        assert!(render(&format!("{{{{ {expression} }}}}")).is_err(), "{expression}");
    }
}

#[test]
fn casing_is_that_of_python_for_all_letters() {
    // A digest of what Python makes of every letter would break with each version of Unicode; these do not change.
    for (expression, text) in [
        ("'ΑΣ ΟΔΥΣΣΕΥΣ'.lower()", "ας οδυσσευς"),
        ("'straße ﬃ'.upper()", "STRASSE FFI"),
        ("'ﬃ ǆ ᾳ'.title()", "Ffi ǅ ᾼ"),
        ("'Ꭰ ꭰ ẞ ς'.casefold()", "Ꭰ Ꭰ ss σ"),
        ("'İ'.lower() | length", "2"),
    ] {
        assert_eq!(render(&format!("{{{{ {expression} }}}}")).unwrap(), text, "{expression}");
    }
}
