//! Reads metric rows with polars: only the run that is asked for, from any number of Parquet files, in
//! an order that does not depend on how they were split.

use std::path::Path;

use midi_ingest::job::exit::at_path;
use midi_ingest::job::exit::{Error, Result};
use polars::prelude::{
    Column, DataFrame, LazyFrame, PlRefPath, PolarsResult, ScanArgsParquet, SortMultipleOptions, col, lit,
};

use super::MetricRow;

/// The metric rows of a run from the `*.parquet` files of a folder, by prompt, model and metric.
///
/// # Errors
/// The folder cannot be read or holds no Parquet file: exit code 74. A file is not a metrics table: 65.
pub fn metric_rows(folder: &Path, run_id: &str) -> Result<Vec<MetricRow>> {
    let frame = scan(folder)?.filter(col("run_id").eq(lit(run_id)));
    let frame = frame.sort(["prompt_id", "model", "metric"], SortMultipleOptions::default());
    frame.collect().and_then(|frame| rows(&frame)).map_err(|e| bad(folder, &e))
}

/// The `*.parquet` files of a folder as one lazy table.
///
/// # Errors
/// As [`metric_rows`].
pub fn scan(folder: &Path) -> Result<LazyFrame> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(at_path("list", folder))? {
        let path = entry.map_err(at_path("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let message = format!("no Parquet file in `{}`", folder.display());
        return Err(Error::storage(message, std::io::Error::from(std::io::ErrorKind::NotFound))
            .hint("has the evaluation of this run written its metrics yet?"));
    }
    // The names are taken as they are: brackets or stars in them are no patterns.
    let args = ScanArgsParquet { glob: false, ..ScanArgsParquet::default() };
    let paths: PolarsResult<Vec<PlRefPath>> = files.iter().map(|file| PlRefPath::try_from_path(file)).collect();
    paths
        .and_then(|paths| LazyFrame::scan_parquet_files(paths.into_iter().collect(), args))
        .map_err(|e| bad(folder, &e))
}

fn bad(folder: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::data(format!("`{}` does not hold metrics tables: {why}", folder.display()))
}

fn rows(frame: &DataFrame) -> PolarsResult<Vec<MetricRow>> {
    let column = |name: &str| frame.column(name);
    let text = |name: &str| column(name).and_then(texts);
    let number = |name: &str| column(name).and_then(|column| Ok(column.f64()?.iter().collect::<Vec<_>>()));
    let [run, prompt, model] = [text("run_id")?, text("prompt_id")?, text("model")?];
    let [checkpoint, config, metric] = [text("checkpoint_hash")?, text("config_hash")?, text("metric")?];
    let (value, original, reason) = (number("value")?, number("original")?, text("reason")?);
    let owned = |texts: &[Option<String>], row: usize| texts[row].clone().unwrap_or_default();
    Ok((0..frame.height())
        .map(|row| MetricRow {
            run_id: owned(&run, row),
            prompt_id: owned(&prompt, row),
            model: owned(&model, row),
            checkpoint_hash: owned(&checkpoint, row),
            config_hash: owned(&config, row),
            metric: owned(&metric, row),
            value: value[row],
            original: original[row],
            reason: reason[row].clone(),
        })
        .collect())
}

fn texts(column: &Column) -> PolarsResult<Vec<Option<String>>> {
    Ok(column.str()?.iter().map(|text| text.map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::row;
    use super::super::write;
    use super::*;

    #[test]
    fn polars_reads_what_was_written_of_the_run_that_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = MetricRow { run_id: "s".into(), ..row("p0", "a", "cp", Some(0.1)) };
        let first = [row("p1", "a", "cp", None), other];
        let second = [row("p0", "b", "gs", Some(0.25)), row("p0", "a", "gs", Some(0.5))];
        for (name, rows) in [("b[1].parquet", &first), ("a.parquet", &second)] {
            fs_err::write(folder.path().join(name), write(rows).expect("writes")).expect("a file");
        }
        fs_err::write(folder.path().join("notes.txt"), "not a table").expect("a file");
        let read = metric_rows(folder.path(), "r").expect("reads");
        let sorted = [second[1].clone(), second[0].clone(), first[0].clone()];
        assert_eq!(read, sorted);
    }

    #[test]
    fn a_folder_without_tables_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = metric_rows(folder.path(), "r").expect_err("no file").to_string();
        assert!(error.starts_with("no Parquet file in `"), "{error}");
        fs_err::write(folder.path().join("x.parquet"), "garbage").expect("a file");
        let error = metric_rows(folder.path(), "r").expect_err("garbage").to_string();
        assert!(error.contains("does not hold metrics tables"), "{error}");
    }
}
