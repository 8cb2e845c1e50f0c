//! The first values of the parameters: a function of shape and seed alone, never of torch's own random
//! numbers or of threads.

use midi_ingest::job::draws::{Draws, Keyed};
use tch::{Device, Kind, Tensor};

use super::parameters::Parameters;
use super::shape::Shape;

/// Bound of the uniform embedding.
const EMBEDDING: f64 = 1e-4;

/// A network's first parameters.
pub fn init(shape: Shape, seed: u64) -> Parameters {
    let names = shape.parameters().into_iter();
    names
        .map(|(name, size)| {
            let tensor = first(shape, seed, &name, &size);
            (name, tensor)
        })
        .collect()
}

/// The first value of one parameter.
fn first(shape: Shape, seed: u64, name: &str, size: &[usize]) -> Tensor {
    let (layer, name_in_layer) = match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) => (layer.parse().unwrap_or(0usize), rest),
        None => (0, name),
    };
    let (l, d, v) = (shape.layers as f64, shape.width as f64, shape.vocabulary as f64);
    // How deep the layer is: 0 to 1, and 1 to 1/L.
    let depth = layer as f64 / (l - 1.0);
    let height = 1.0 - layer as f64 / l;
    // Mixes are functions of the channel's place p = c/D.
    let place = |f: &dyn Fn(f64) -> f64| channels(size, &|c| f(c / d));
    let orthogonal = |gain: f64| orthogonal(size, gain, &mut Keyed::new(seed, name, 0));
    let constant = |value: f64| Tensor::full(long(size), value, (Kind::Float, Device::Cpu));
    match name_in_layer {
        "emb.weight" => uniform(size, EMBEDDING, &mut Keyed::new(seed, name, 0)),
        "head.weight" => orthogonal(if v > d { 0.5 * (v / d).sqrt() } else { 0.5 }),
        "att.ln_x.weight" => constant(((1.0 + layer as f64) / l).powf(0.7)),
        "att.x_r" | "att.x_g" => place(&|p| 1.0 - p.powf(0.2 * height)),
        "att.x_w" | "att.x_a" => place(&|p| 1.0 - p.powf(0.9 * height)),
        "att.x_k" => place(&|p| 1.0 - (p.powf(0.9 * height) + 0.4 * depth)),
        "att.x_v" => place(&|p| 1.0 - (p.powf(0.4 * height) + 0.6 * depth)),
        "ffn.x_k" => place(&|p| 1.0 - p.powf(height.powi(4))),
        "att.w0" => channels(size, &|c| -7.0 + 5.0 * (c / (d - 1.0)).powf(0.85 + depth.sqrt()) + 0.5),
        "att.w2" | "att.a2" | "att.v2" | "att.g2" => {
            let (rows, columns) = (size[0] as f64, size[1] as f64);
            orthogonal(if rows > columns { 0.1 * (rows / columns).sqrt() } else { 0.1 })
        }
        "att.v0" | "att.k_a" => constant(1.0),
        "att.k_k" => constant(0.85),
        "att.receptance.weight" | "att.value.weight" | "ffn.key.weight" => orthogonal(1.0),
        "att.key.weight" => orthogonal(0.1),
        "ln1.weight" | "ln2.weight" | "ln0.weight" | "ln_out.weight" => constant(1.0),
        // Biases, the inner half of every low-rank pair, a0, r_k, and the two matrices that close a branch.
        _ => constant(0.0),
    }
}

/// A size as torch takes it.
pub(crate) fn long(size: &[usize]) -> Vec<i64> {
    size.iter().map(|&n| n as i64).collect()
}

/// f(c) for every channel c, computed in f64.
fn channels(size: &[usize], f: &dyn Fn(f64) -> f64) -> Tensor {
    let values: Vec<f32> = (0..size.iter().product()).map(|c: usize| f(c as f64) as f32).collect();
    Tensor::from_slice(&values).reshape(long(size))
}

/// Evenly from −`bound` to `bound`.
pub(crate) fn uniform(size: &[usize], bound: f64, draws: &mut Keyed) -> Tensor {
    let values: Vec<f32> = (0..size.iter().product()).map(|_: usize| draws.uniform(-bound, bound) as f32).collect();
    Tensor::from_slice(&values).reshape(long(size))
}

/// A random matrix whose rows (or columns, if there are fewer) are orthogonal and of length `gain`: the Q of
/// a Gaussian's QR decomposition, with the signs of R's diagonal, which makes it uniform.
fn orthogonal(size: &[usize], gain: f64, draws: &mut Keyed) -> Tensor {
    let (rows, columns) = (size[0] as i64, size[1] as i64);
    let values: Vec<f64> = (0..rows * columns).map(|_| normal(draws)).collect();
    let gaussian = Tensor::from_slice(&values).reshape([rows.max(columns), rows.min(columns)]);
    let (q, r) = Tensor::linalg_qr(&gaussian, "reduced");
    let q = q * r.diagonal(0, 0, 1).sign();
    let q = if rows < columns { q.tr() } else { q };
    (q * gain).to_kind(Kind::Float).contiguous()
}

/// A standard normal number, by the method of Box and Muller.
fn normal(draws: &mut Keyed) -> f64 {
    let radius = (-2.0 * (1.0 - draws.uniform(0.0, 1.0)).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.uniform(0.0, 1.0)).cos()
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
