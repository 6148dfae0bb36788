//! The page at `/`: one document that holds its style, its script and the library that draws its
//! plots, and asks for nothing but `/status` and `/history` beside it.
//!
//! One document rather than a page, a script and a style sheet: it is of one version even while the
//! daemon is replaced, and works below any path of a proxy. Its policy allows exactly this style and
//! this script, by their hashes, and no markup made from text (`require-trusted-types-for`): names
//! and messages from outside can't become code.

use std::sync::LazyLock;

use http::HeaderValue;
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

const HEAD: &str = include_str!("page/head.html");
const BODY: &str = include_str!("page/body.html");

/// What is between `<style>` and `</style>`.
static STYLE: LazyLock<String> = LazyLock::new(|| {
    close_up(&flush_left(&[include_str!("page/vendor/uPlot.min.css"), include_str!("page/page.css")]))
});

/// What is between `<script>` and `</script>`; the library's notice goes where its code goes.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let notice = concat!("/*!\n", include_str!("page/vendor/LICENSE"), "*/");
    let library = flush_left(&[notice, include_str!("page/vendor/uPlot.iife.min.js")]);
    library + &joined(&flush_left(&[include_str!("page/page.js")]))
});

static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let [style, script, body] = [STYLE.as_str(), SCRIPT.as_str(), &flush_left(&[BODY])];
    let page = format!(
        "{HEAD}<style>{style}</style>\n</head>\n<body>\n{body}<script>{script}</script>\n</body>\n</html>\n"
    );
    page.into()
});

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(&SCRIPT),
        hash(&STYLE)
    );
    // It is plain ASCII; were it not, a page that does nothing is better than one without it.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The content type of the page.
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// The whole page.
pub(super) fn page() -> Bytes {
    PAGE.clone()
}

/// The `Content-Security-Policy` that it is served with.
pub(super) fn policy() -> HeaderValue {
    POLICY.clone()
}

/// The lines of `files` without what is for who reads the source, indentation, blank lines and lines
/// of comment: no line of theirs begins inside a text. Notices (`/*!`) stay.
fn flush_left(files: &[&str]) -> String {
    let is_comment = |line: &str| {
        line.starts_with("//") || (line.starts_with("/*") && !line.starts_with("/*!") && line.ends_with("*/"))
    };
    let lines = files.iter().flat_map(|file| file.lines()).map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !is_comment(line)).flat_map(|line| [line, "\n"]).collect()
}

/// `style` without the blanks beside its punctuation, which no text in it has beside any.
fn close_up(style: &str) -> String {
    let blanks = [
        (" {", "{"),
        ("{ ", "{"),
        ("; ", ";"),
        (": ", ":"),
        (", ", ","),
        (" }", "}"),
        ("}\n", "}"),
        (";}", "}"),
    ];
    blanks.into_iter().fold(joined(style), |style, (blank, none)| style.replace(blank, none))
}

/// `text` without the ends of lines that something else ends or continues: no text in it goes over lines.
fn joined(text: &str) -> String {
    [";\n", ",\n", "{\n", "(\n", "[\n"]
        .into_iter()
        .fold(text.to_owned(), |text, end| text.replace(end, end.trim_end()))
}

/// How a policy names a style or script: <https://www.w3.org/TR/CSP3/#grammardef-hash-source>
fn hash(source: &str) -> String {
    format!("sha256-{}", base64_simd::STANDARD.encode_to_string(Sha256::digest(source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_its_parts_end_where_they_should() {
        let page = page();
        assert!(page.len() < 100_000, "{} bytes", page.len());
        let page = std::str::from_utf8(&page).unwrap();
        for (tag, count) in [("<style>", 1), ("</style>", 1), ("<script", 1), ("</script", 1), ("<!--", 0)] {
            assert_eq!(page.matches(tag).count(), count, "{tag}");
        }
        assert!(!page.contains('\r'), "a browser would read another text than the one that was hashed");
        assert!(policy().to_str().unwrap().contains("script-src 'sha256-"));
    }
}
