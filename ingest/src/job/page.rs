//! A report as one HTML page: no script, no font, no picture from elsewhere; light or dark as the reader's system
//! is. Stages that leave a report fill its body and say what is special about it.

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --line: #d9dde1; --paper: #fff; --mark: #0b62c4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #9aa2aa; --line: #3a4047; --paper: #16191c; --mark: #6db1ff; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
p, li { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .name { text-align: left; }
.best { color: var(--mark); font-weight: 600; }
svg { max-width: 40rem; width: 100%; font-size: 12px; }
svg text { fill: var(--soft); }
svg .grid { stroke: var(--line); }
";

/// The page titled `title`, which is text; `style` is CSS after that of all pages, and `body` is HTML below the title.
pub fn page(title: &str, style: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A table of [`row`]s, which scrolls where the page is too narrow for it.
pub fn table(rows: &str) -> String {
    format!("<div class=\"wide\"><table>\n{rows}</table></div>\n")
}

/// A row of [`cell`]s.
pub fn row(cells: impl IntoIterator<Item = String>) -> String {
    format!("<tr>{}</tr>\n", cells.into_iter().collect::<String>())
}

/// A cell with `text`; `tag` is `td` or `th`, and `class` may be empty.
pub fn cell(tag: &str, class: &str, text: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<{tag}{class}>{}</{tag}>", escape(text))
}

/// Text as it stands in HTML and in its attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_nothing_comes_from_elsewhere() {
        let page = page("a <b> & 'c'", "", &table(&row([cell("td", "name", "\"<x>\"")])));
        assert!(page.contains("<title>a &lt;b&gt; &amp; &#39;c&#39;</title>"), "{page}");
        assert!(page.contains("<tr><td class=\"name\">&quot;&lt;x&gt;&quot;</td></tr>"), "{page}");
        for outside in ["http", "src=", "<link", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
