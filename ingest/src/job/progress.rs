//! What a running stage shows: a bar on a terminal, a plain line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where progress goes. Shared by reference between threads.
#[derive(Debug)]
pub struct Progress {
    stage: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Silent,
    Bar(Mutex<ProgressBar>),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    what: String,
    unit: String,
    done: u64,
    total: u64,
    began: Instant,
    spoke: Option<Instant>,
    message: String,
}

impl Progress {
    /// No output at all: for tests and for embedding.
    pub fn silent() -> Self {
        Progress { stage: String::new(), kind: Kind::Silent }
    }

    /// Progress on standard error: a bar if that is a terminal, plain lines otherwise.
    pub fn stderr(stage: &str) -> Self {
        let kind = if std::io::stderr().is_terminal() {
            Kind::Bar(Mutex::new(ProgressBar::hidden()))
        } else {
            Kind::Lines(Mutex::new(Lines {
                what: String::new(),
                unit: String::new(),
                done: 0,
                total: 0,
                began: Instant::now(),
                spoke: None,
                message: String::new(),
            }))
        };
        Progress { stage: stage.to_owned(), kind }
    }

    /// Begins a part of the work: `total` things of the kind `unit`.
    pub fn begin(&self, what: &str, total: u64, unit: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                let template = format!(
                    "{{spinner}} {} {what} [{{bar:30}}] {{pos}}/{{len}} {unit} ({{per_sec}}, {{eta}} left) {{msg}}",
                    self.stage
                );
                let new = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                if let Ok(style) = ProgressStyle::with_template(&template) {
                    new.set_style(style.progress_chars("=> "));
                }
                if let Ok(mut bar) = bar.lock() {
                    bar.finish_and_clear();
                    *bar = new;
                }
            }
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    let now = Instant::now();
                    *lines = Lines {
                        what: what.to_owned(),
                        unit: unit.to_owned(),
                        done: 0,
                        total,
                        began: now,
                        spoke: None,
                        message: String::new(),
                    };
                    say(&format!("{}: {what}, {total} {unit}", self.stage));
                    lines.spoke = Some(now);
                }
            }
        }
    }

    /// Reports `count` more things done.
    pub fn advance(&self, count: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                if let Ok(bar) = bar.lock() {
                    bar.inc(count);
                }
            }
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    lines.done += count;
                    if lines.spoke.is_none_or(|spoke| spoke.elapsed() >= LINE_EVERY) {
                        say(&format!("{}: {}", self.stage, lines.line()));
                        lines.spoke = Some(Instant::now());
                    }
                }
            }
        }
    }

    /// Sets the text behind the bar: loss, rejects, whatever is worth watching.
    pub fn message(&self, text: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                if let Ok(bar) = bar.lock() {
                    bar.set_message(text.to_owned());
                }
            }
            Kind::Lines(lines) => {
                if let Ok(mut lines) = lines.lock() {
                    text.clone_into(&mut lines.message);
                }
            }
        }
    }

    /// Says one line that stays.
    pub fn note(&self, text: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                if let Ok(bar) = bar.lock() {
                    bar.suspend(|| say(&format!("{}: {text}", self.stage)));
                }
            }
            Kind::Lines(_) => say(&format!("{}: {text}", self.stage)),
        }
    }

    /// Ends the part that was begun last and says `summary`.
    pub fn finish(&self, summary: &str) {
        if let Kind::Bar(bar) = &self.kind
            && let Ok(bar) = bar.lock()
        {
            bar.finish_and_clear();
        }
        self.note(summary);
    }
}

impl Lines {
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let rate = self.done as f64 / seconds;
        let left = if rate > 0.0 { self.total.saturating_sub(self.done) as f64 / rate } else { 0.0 };
        format!(
            "{} {}/{} {} ({rate:.1}/s, {} left) {}",
            self.what,
            self.done,
            self.total,
            self.unit,
            short_duration(left),
            self.message
        )
        .trim_end()
        .to_owned()
    }
}

/// Seconds as text for people: `42s`, `3m20s`, `2h05m`.
pub fn short_duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// A closed standard error must not end the work, so failures to write are dropped.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(short_duration(41.6), "42s");
        assert_eq!(short_duration(200.0), "3m20s");
        assert_eq!(short_duration(7500.0), "2h05m");
        assert_eq!(short_duration(-1.0), "0s");
    }
}
