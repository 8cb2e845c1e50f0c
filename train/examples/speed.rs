//! How fast this machine trains and generates: `speed LAYERS WIDTH VOCABULARY BATCH TIME [THREADS]`.
//!
//! Prints the time of an optimiser step on random tokens, of the WKV operator alone, and of a token of
//! batched generation.
#![allow(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::sync::Arc;
use std::time::Instant;

use midi_ingest::job::exit::{Error, Result};
use midi_train::config::OptimizerConfig;
use midi_train::cpu::keep_freed;
use midi_train::data::Batch;
use midi_train::model::{Rwkv7, Shape, State, init::init};
use midi_train::optim::AdamW;
use midi_train::step::step;
use midi_train::wkv::{CpuWkv, Inputs, WkvBackend};
use tch::{Device, Kind, Tensor};

/// Repetitions of a measurement; the fastest counts.
const REPEAT: usize = 5;

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (layers, width, vocabulary, batch, time, threads) = match *numbers.as_slice() {
        [l, d, v, b, t] => (l, d, v, b, t, std::thread::available_parallelism().map_or(1, |n| n.get())),
        [l, d, v, b, t, threads] => (l, d, v, b, t, threads),
        _ => return Err(Error::mismatch("usage: speed LAYERS WIDTH VOCABULARY BATCH TIME [THREADS]")),
    };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    keep_freed();
    let backend: Arc<dyn WkvBackend> = Arc::new(CpuWkv::new());
    let shape = Shape::new(layers, width, vocabulary)?;
    let mut model = Rwkv7::new(init(shape, 1), Arc::clone(&backend))?;
    println!("L{layers} D{width} V{vocabulary}, B{batch} T{time}, {threads} threads, {}", backend.name());

    model.set_trainable(true);
    let config = OptimizerConfig::default();
    let mut optimizer = AdamW::new(config.clone(), model.parameters());
    let mut group = midi_train::dist::Group::solo();
    let ids = (0..(batch * time) as i64).map(|i| (i * 7919 + i / 3) % vocabulary as i64).collect();
    let batches = [Batch::full(time, ids)];
    let seconds = fastest(|| step(&mut model, &mut optimizer, &config, &batches, 1e-3, &mut group).map(|_| ()))?;
    println!("optimiser step        {:8.1} ms, {:.0} tokens/s", seconds * 1e3, (batch * time) as f64 / seconds);

    let size = [batch as i64, time as i64, shape.heads() as i64, 64];
    let x = Tensor::rand(size, (Kind::Float, Device::Cpu)) * 0.1;
    let w: Tensor = -1.0 - &x;
    let inputs = Inputs { r: &x, w: &w, k: &x, v: &x, a: &x, b: &x, s0: None };
    let seconds = fastest(|| backend.forward(inputs, true).map(|_| ()))?;
    println!("operator forward      {:8.1} ms a layer", seconds * 1e3);
    let kept = backend.forward(inputs, true)?.kept;
    let seconds = fastest(|| backend.backward(inputs, &kept, &x, None).map(|_| ()))?;
    println!("operator backward     {:8.1} ms a layer", seconds * 1e3);

    let mut state = State::zeros(shape, batch);
    let ids = vec![1; batch];
    let seconds = fastest(|| {
        for _ in 0..20 {
            state = model.step(&ids, &state)?.1;
        }
        Ok(())
    })? / 20.0;
    println!(
        "generation, a token   {:8.2} ms for {batch} sequences, {:.0} tokens/s",
        seconds * 1e3,
        batch as f64 / seconds
    );
    Ok(())
}

fn fastest(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..REPEAT {
        let began = Instant::now();
        work()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}
