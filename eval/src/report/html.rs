//! The report as one HTML page: no script, no font, no picture from elsewhere; light or dark as the
//! reader's system is.

use super::{LEGEND, Report, effect, heading, heading_of, improvement, mean_and_std, p_value, plot, stars};

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
svg .interval { stroke: var(--mark); stroke-width: 3; opacity: .45; }
svg .mean { fill: var(--mark); }
";

pub(super) fn render(report: &Report) -> String {
    let run = escape(&report.run_id);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Evaluation of {run}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Evaluation of {run}</h1>\n<p>Configuration {}.</p>\n",
        escape(&report.config_hash)
    );
    page += "<h2>Models</h2>\n";
    page += &means(report);
    if !report.comparisons.is_empty() {
        page += "<h2>Comparisons</h2>\n";
        page += &comparisons(report);
    }
    let notes: String = report.notes().map(|note| format!("<li>{}</li>\n", escape(&note))).collect();
    if !notes.is_empty() {
        page += &format!("<ul>\n{notes}</ul>\n");
    }
    for line in LEGEND {
        page += &format!("<p>{}</p>\n", escape(line));
    }
    page += "<h2>Means and their 95 % bootstrap intervals</h2>\n";
    for &metric in &report.metrics {
        let title = heading(metric);
        let plot = plot::dots(&title, report.of(metric));
        let plot = plot.unwrap_or_else(|| "<p>No value is defined.</p>".to_owned());
        page += &format!("<h3>{}</h3>\n{plot}\n", escape(&title));
    }
    page += "</body>\n</html>\n";
    page
}

fn means(report: &Report) -> String {
    let header = report.models.iter().map(|model| cell("th", "", model));
    let mut rows = row(std::iter::once(cell("th", "", "metric")).chain(header));
    for &metric in &report.metrics {
        let cells = report
            .of(metric)
            .map(|summary| cell("td", if report.is_best(summary) { "best" } else { "" }, &mean_and_std(summary)));
        rows += &row(std::iter::once(cell("td", "", &heading(metric))).chain(cells));
    }
    table(&rows)
}

fn comparisons(report: &Report) -> String {
    let header = [
        ("", "metric"),
        ("name", "candidate"),
        ("name", "baseline"),
        ("", "n"),
        ("", "improvement [95 %]"),
        ("", "d"),
        ("", "p"),
        ("", "Holm p"),
        ("name", ""),
    ];
    let mut rows = row(header.into_iter().map(|(class, text)| cell("th", class, text)));
    for comparison in &report.comparisons {
        rows += &row([
            cell("td", "", &heading_of(comparison)),
            cell("td", "name", &comparison.candidate),
            cell("td", "name", &comparison.baseline),
            cell("td", "", &comparison.pairs.to_string()),
            cell("td", "", &improvement(comparison)),
            cell("td", "", &effect(comparison)),
            cell("td", "", &p_value(comparison.p)),
            cell("td", "", &p_value(comparison.p_holm)),
            cell("td", "name", stars(comparison)),
        ]);
    }
    table(&rows)
}

fn table(rows: &str) -> String {
    format!("<div class=\"wide\"><table>\n{rows}</table></div>\n")
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    format!("<tr>{}</tr>\n", cells.into_iter().collect::<String>())
}

fn cell(tag: &str, class: &str, text: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<{tag}{class}>{}</{tag}>", escape(text))
}

/// Text as it stands in HTML and in its attributes.
pub(super) fn escape(text: &str) -> String {
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
    #[test]
    fn the_page_looks_like_this() {
        insta::assert_snapshot!(super::super::tests::report().html());
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_names_are_escaped() {
        let page = super::super::tests::report().html();
        for outside in ["http", "src=", "<link", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("<b&w>"));
        assert!(page.contains("&lt;b&amp;w&gt;"));
        assert!(page.contains("prefers-color-scheme: dark"));
    }
}
