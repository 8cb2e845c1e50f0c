//! The report as one HTML page.

use midi_ingest::job::page::{cell, escape, page, row, table};

use super::{LEGEND, Report, effect, heading, heading_of, improvement, mean_and_std, p_value, plot, stars};

/// What the plots of means need.
const STYLE: &str = "\
svg .interval { stroke: var(--mark); stroke-width: 3; opacity: .45; }
svg .mean { fill: var(--mark); }
";

pub(super) fn render(report: &Report) -> String {
    let mut body = format!("<p>Configuration {}.</p>\n", escape(&report.config_hash));
    body += "<h2>Models</h2>\n";
    body += &means(report);
    if !report.comparisons.is_empty() {
        body += "<h2>Comparisons</h2>\n";
        body += &comparisons(report);
    }
    let notes: String = report.notes().map(|note| format!("<li>{}</li>\n", escape(&note))).collect();
    if !notes.is_empty() {
        body += &format!("<ul>\n{notes}</ul>\n");
    }
    for line in LEGEND {
        body += &format!("<p>{}</p>\n", escape(line));
    }
    body += "<h2>Means and their 95 % bootstrap intervals</h2>\n";
    for &metric in &report.metrics {
        let title = heading(metric);
        let plot = plot::dots(&title, report.of(metric));
        let plot = plot.unwrap_or_else(|| "<p>No value is defined.</p>".to_owned());
        body += &format!("<h3>{}</h3>\n{plot}\n", escape(&title));
    }
    page(&format!("Evaluation of {}", report.run_id), STYLE, &body)
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
