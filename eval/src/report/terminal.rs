//! The report as text tables.

use comfy_table::{CellAlignment, Table, presets};

use super::{LEGEND, Report, effect, heading, heading_of, improvement, mean_and_std, p_value, stars};

/// What marks the best mean of a metric.
const BEST: &str = "◀";

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("run {}, configuration {}\n\n", report.run_id, report.config_hash);
    text += &means(report).to_string();
    text += "\n\n";
    if !report.comparisons.is_empty() {
        text += &comparisons(report).to_string();
        text += "\n\n";
    }
    for note in report.notes() {
        text += &format!("{note}\n");
    }
    text += &format!("{BEST} best mean of the metric.\n");
    for line in LEGEND {
        text += &format!("{line}\n");
    }
    text
}

fn means(report: &Report) -> Table {
    let mut table = table();
    table.set_header(std::iter::once("metric").chain(report.models.iter().map(String::as_str)));
    for &metric in &report.metrics {
        let cells = report.of(metric).map(|summary| {
            let mark = if report.is_best(summary) { BEST } else { " " };
            format!("{} {mark}", mean_and_std(summary))
        });
        table.add_row(std::iter::once(heading(metric)).chain(cells));
    }
    right_aligned(table, 1)
}

fn comparisons(report: &Report) -> Table {
    let mut table = table();
    table.set_header(["metric", "candidate", "baseline", "n", "improvement [95 %]", "d", "p", "Holm p", ""]);
    for row in &report.comparisons {
        table.add_row([
            heading_of(row),
            row.candidate.clone(),
            row.baseline.clone(),
            row.pairs.to_string(),
            improvement(row),
            effect(row),
            p_value(row.p),
            p_value(row.p_holm),
            stars(row).to_owned(),
        ]);
    }
    let mut table = right_aligned(table, 3);
    if let Some(column) = table.column_mut(8) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

/// A table that is as wide as it needs to be: its shape must not depend on where it is shown.
fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table
}

fn right_aligned(mut table: Table, from: usize) -> Table {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tables_look_like_this() {
        insta::assert_snapshot!(super::super::tests::report().terminal());
    }
}
