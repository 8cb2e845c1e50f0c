//! The WKV operator gives the same bits on any number of threads. A program of its own, because the number of torch's
//! threads belongs to the process.
#![cfg(feature = "torch")]

use midi_train::wkv::{CpuWkv, Inputs, WkvBackend};
use tch::{Device, Kind, Tensor};

#[test]
fn the_number_of_threads_changes_nothing() {
    let size = [3, 40, 2, 64];
    let wave = |salt: f64, size: &[i64]| {
        let n = Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        ((n + salt * 7919.0) * 12.9898).sin().to_kind(Kind::Float).reshape(size)
    };
    let [r, w, k, v, a, b, dy] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].map(|salt| wave(salt, &size) * 0.3);
    let s0 = wave(8.0, &[3, 2, 64, 64]);
    let inputs = Inputs { r: &r, w: &w, k: &k, v: &v, a: &a, b: &b, s0: Some(&s0) };
    let with = |threads| {
        tch::set_num_threads(threads);
        let forward = CpuWkv::new().forward(inputs, true).expect("runs");
        let grads = CpuWkv::new().backward(inputs, &forward.kept, &dy, Some(&s0)).expect("runs");
        [forward.y, forward.state, grads.dr, grads.dw, grads.dk, grads.dv, grads.da, grads.db, grads.ds0]
    };
    for (number, (one, many)) in with(1).iter().zip(&with(3)).enumerate() {
        assert!(one.equal(many), "tensor {number}");
    }
}
