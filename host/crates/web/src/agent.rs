//! The HTTP client underneath: how long it waits, and whom it trusts.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(15);
/// Until an answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// Until a part of a file is there: then the rest is asked for again, from where it is.
const BODY: Duration = Duration::from_mins(2);
/// Bytes of a file of certificates.
const CERTIFICATES: u64 = 16 << 20;

/// An agent that trusts the certificates in a file, or the usual ones.
pub(crate) fn agent(certificates: Option<&Path>) -> Result<Agent, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = certificates {
        tls = tls.root_certs(RootCerts::from(read(path)?));
    }
    let config = Agent::config_builder()
        .tls_config(tls.build())
        .user_agent(concat!("host/", env!("CARGO_PKG_VERSION")))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_recv_body(Some(BODY));
    Ok(config.build().into())
}

fn read(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(CERTIFICATES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let all: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if all.is_empty() { Err("there is no certificate in it".into()) } else { Ok(all) }
}
