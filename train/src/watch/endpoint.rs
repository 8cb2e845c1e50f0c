//! The newest line of the log as gauges that Prometheus scrapes while a run goes on.
//!
//! One thread answers one question after the other: a scraper asks every few seconds, and nobody else has to. What it
//! is asked for cannot reach training, which only sets numbers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use midi_ingest::job::exit::{Error, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::Line;

/// How long a client may take to ask or to listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a question that are read.
const QUESTION: usize = 8192;

/// A floating-point gauge.
type Number = Gauge<f64, AtomicU64>;

/// The gauges of a process, served until they are dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    gauges: Gauges,
    over: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

/// What is shown. A value that does not exist yet is NaN, as Prometheus has it.
#[derive(Debug)]
struct Gauges {
    step: Number,
    loss: Number,
    valid_loss: Number,
    lr: Number,
    grad_norm: Number,
    tokens: Number,
    tokens_per_second: Number,
}

impl Endpoint {
    /// Listens at `address`, for rank `rank`; port 0 takes any free one.
    ///
    /// # Errors
    /// Nothing can listen there: exit code 78.
    pub fn open(address: SocketAddr, rank: usize) -> Result<Self> {
        let listener = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listener.map_err(|e| {
            Error::mismatch(format!("cannot listen at `metrics-address` {address}"))
                .because(e)
                .hint("name an address of this machine and a port that is free, or leave `metrics-address` out")
        })?;
        let mut registry = Registry::with_prefix("midi_rwkv");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Number::default();
            gauge.set(f64::NAN);
            registry.register(name, help, gauge.clone());
            gauge
        };
        gauge("rank", "Rank of this process").set(rank as f64);
        let gauges = Gauges {
            step: gauge("step", "Optimiser steps done"),
            loss: gauge("loss", "Cross-entropy in nats a target token, over the last logged steps"),
            valid_loss: gauge("validation_loss", "Cross-entropy over the validation split, at its last pass"),
            lr: gauge("learning_rate", "Learning rate of the last logged step"),
            grad_norm: gauge("gradient_norm", "Gradient norm of the last logged step, before clipping"),
            tokens: gauge("tokens", "Positions trained on since the run began, padding left out"),
            tokens_per_second: gauge("tokens_per_second", "Positions a second, over the last logged steps"),
        };
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let serve = move || {
            for client in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                // A client that breaks off is no concern of the training.
                let _ = client.and_then(|client| answer(client, &registry));
            }
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(serve);
        let serving = Some(thread.map_err(|e| Error::bug("cannot start a thread").because(e))?);
        Ok(Endpoint { address, gauges, over, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows the numbers of a line; the validation loss stays until the next one.
    pub fn show(&self, line: &Line) {
        let Gauges { step, loss, valid_loss, lr, grad_norm, tokens, tokens_per_second } = &self.gauges;
        step.set(line.step as f64);
        loss.set(line.loss);
        lr.set(line.lr);
        grad_norm.set(line.grad_norm);
        tokens.set(line.tokens as f64);
        tokens_per_second.set(line.tokens_per_second);
        if let Some(loss) = line.valid_loss {
            valid_loss.set(loss);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // The thread waits for a client; this is the last one.
        let here = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let woken = TcpStream::connect_timeout(&SocketAddr::new(here, self.address.port()), PATIENCE);
        if let (Ok(_), Some(thread)) = (woken, self.serving.take()) {
            let _ = thread.join();
        }
    }
}

/// Answers one client.
fn answer(mut client: TcpStream, registry: &Registry) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut question = Vec::new();
    let mut piece = [0; 1024];
    // The head ends with an empty line; a body is of no interest. However slowly it comes, the end of training does not
    // wait for it.
    let until = Instant::now() + PATIENCE;
    let is_whole = |question: &[u8]| question.windows(4).any(|four| four == b"\r\n\r\n");
    while question.len() < QUESTION && !is_whole(&question) && Instant::now() < until {
        match client.read(&mut piece)? {
            0 => break,
            count => question.extend_from_slice(&piece[..count]),
        }
    }
    let head = String::from_utf8_lossy(&question);
    let mut words = head.split([' ', '\r']);
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => {
            let mut text = String::new();
            encode(&mut text, registry).map_err(std::io::Error::other)?;
            ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain; charset=utf-8", "look at /metrics\n".to_owned()),
        _ => ("400 Bad Request", "text/plain; charset=utf-8", "ask with GET /metrics\n".to_owned()),
    };
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;

    use super::*;

    fn ask(address: SocketAddr, question: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(question.as_bytes()).expect("asks");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("is answered");
        text
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn the_newest_line_is_shown_and_nothing_else_is_answered() {
        let endpoint = Endpoint::open(local(), 3).expect("listens");
        let scrape = || ask(endpoint.address(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let first = scrape();
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n") && first.ends_with("# EOF\n"), "{first}");
        assert!(first.contains("midi_rwkv_rank 3.0\n") && first.contains("midi_rwkv_loss NaN\n"), "{first}");
        let line = Line {
            step: 20,
            loss: 2.5,
            lr: 0.001,
            grad_norm: 0.75,
            tokens: 4000,
            tokens_per_second: 125.0,
            filled: 1.0,
            loader_wait: 0.0,
            valid_loss: Some(2.25),
        };
        endpoint.show(&line);
        endpoint.show(&Line { step: 30, valid_loss: None, ..line });
        let second = scrape();
        for gauge in [
            "step 30.0",
            "loss 2.5",
            "validation_loss 2.25",
            "learning_rate 0.001",
            "gradient_norm 0.75",
            "tokens 4000.0",
            "tokens_per_second 125.0",
        ] {
            assert!(second.contains(&format!("\nmidi_rwkv_{gauge}\n")), "{gauge}: {second}");
        }
        assert!(ask(endpoint.address(), "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(endpoint.address(), "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn an_address_that_is_taken_is_a_mismatch_and_is_free_again_afterwards() {
        let endpoint = Endpoint::open(local(), 0).expect("listens");
        let address = endpoint.address();
        let error = Endpoint::open(address, 1).expect_err("is taken");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains(&format!("`metrics-address` {address}")), "{error}");
        drop(endpoint);
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}
