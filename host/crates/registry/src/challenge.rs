//! What a registry wants before it answers: the header `WWW-Authenticate` (RFC 9110, 11.6.1).

use web::http::HeaderMap;

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of another server.
    Bearer {
        /// The address that has it.
        realm: String,
        /// Who it is for.
        service: Option<String>,
        /// What it allows.
        scope: Option<String>,
    },
}

/// What the headers of an answer want; of several, a token. None where they want nothing that is known here.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all("www-authenticate").iter();
    let all: Vec<Challenge> = all.filter_map(|value| value.to_str().ok()).flat_map(parse).collect();
    all.iter().find(|challenge| **challenge != Challenge::Basic).or(all.first()).cloned()
}

/// The challenges of a header that are known here.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = text;
    // The scheme that parameters belong to, and those of them that matter.
    let mut open: Option<(String, Vec<(String, String)>)> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            // Nobody knows what follows.
            break;
        }
        let (name, after) = rest.split_at(end);
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=').and_then(value);
        match (value, &mut open) {
            (Some((value, after)), Some((_, parameters))) => {
                parameters.push((name.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), None) => break,
            (None, open) => {
                found.extend(open.take().and_then(known));
                *open = Some((name.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.extend(open.and_then(known));
    found
}

fn known((scheme, mut parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let mut take = |name: &str| {
        let place = parameters.iter().position(|(other, value)| other == name && !value.is_empty())?;
        Some(parameters.swap_remove(place).1)
    };
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: take("realm")?, service: take("service"), scope: take("scope") }),
        _ => None,
    }
}

/// What a parameter is, and what follows it; none for what is no value.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[place + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let [service, scope] = [service, scope].map(|text| text.map(ToOwned::to_owned));
        Challenge::Bearer { realm: realm.into(), service, scope }
    }

    #[test]
    fn what_registries_send() {
        for (text, wanted) in [
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://a.b/token?x=1",service="a.b",scope="repository:c/d:pull,push",error="invalid_token""#,
                vec![bearer("https://a.b/token?x=1", Some("a.b"), Some("repository:c/d:pull,push"))],
            ),
            (r#"BEARER Realm = "a\"b" , service=c"#, vec![bearer("a\"b", Some("c"), None)]),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="y", Other a=b"#,
                vec![Challenge::Basic, bearer("y", None, None)],
            ),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="x"#, vec![]),
            (r#"realm="x""#, vec![]),
            ("Bearer realm=", vec![]),
            ("\"", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_token_is_wanted_before_a_password() {
        let mut headers = HeaderMap::new();
        assert_eq!(challenge(&headers), None);
        headers.append("www-authenticate", "Basic realm=x".parse().unwrap());
        assert_eq!(challenge(&headers), Some(Challenge::Basic));
        headers.append("www-authenticate", "Bearer realm=y".parse().unwrap());
        assert_eq!(challenge(&headers), Some(bearer("y", None, None)));
    }
}
