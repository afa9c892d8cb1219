//! What all pages have in common. They show strangers' texts: everything is escaped, and a page has no script and asks nobody
//! for anything.

use crate::diagnostic::escape;

const STYLE: &str = include_str!("page.css");

/// The start of a page, up to its heading; `title` and `heading` are HTML. It ends with `</main></body></html>`.
pub fn begin(title: &str, heading: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{heading}</h1>\n"
    )
}

/// A text as HTML that shows it and means nothing else.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in escape(text).chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            other => out.push(other),
        }
    }
    out
}
