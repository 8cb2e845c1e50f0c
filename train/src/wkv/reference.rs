//! The WKV operator as its equations say, one step at a time in torch's own operators: slow, of any kind
//! and on any device. It wins arguments.

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::{Forward, Gradients, Inputs, WkvBackend};

/// The plain implementation. It keeps every state for the backward pass.
#[derive(Clone, Copy, Debug)]
pub struct Reference;

impl WkvBackend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward> {
        let sizes = inputs.sizes()?;
        let decay = (-inputs.w.exp()).exp();
        let mut state = initial_state(&inputs);
        let mut states = vec![state.shallow_clone()];
        let mut removed = Vec::new();
        let mut y = Vec::new();
        for t in 0..sizes.time as i64 {
            let s = state.matmul(&column(inputs.a, t));
            state =
                state * row(&decay, t) + s.matmul(&row(inputs.b, t)) + column(inputs.v, t).matmul(&row(inputs.k, t));
            y.push(state.matmul(&column(inputs.r, t)).squeeze_dim(-1));
            if keep {
                states.push(state.shallow_clone());
                removed.push(s);
            }
        }
        let kept = if keep { vec![Tensor::stack(&states, 0), Tensor::stack(&removed, 0)] } else { Vec::new() };
        Ok(Forward { y: Tensor::stack(&y, 1), state, kept })
    }

    fn backward(
        &self,
        inputs: Inputs<'_>,
        kept: &[Tensor],
        dy: &Tensor,
        d_state: Option<&Tensor>,
    ) -> Result<Gradients> {
        let sizes = inputs.sizes()?;
        let [states, removed] = kept else { return Err(Error::bug("the reference operator kept nothing")) };
        let decay = (-inputs.w.exp()).exp();
        // ∂L/∂S_t, carried backwards.
        let mut g = d_state.map_or_else(|| states.get(0).zeros_like(), Tensor::shallow_clone);
        let mut grads: [Vec<Tensor>; 6] = Default::default();
        for t in (0..sizes.time as i64).rev() {
            let (before, after, s) = (states.get(t), states.get(t + 1), removed.get(t));
            let dy_t = column(dy, t);
            let dr = after.mt().matmul(&dy_t);
            // Not in place: the first G is the caller's tensor.
            let with_output = &g + dy_t.matmul(&row(inputs.r, t));
            let dv = with_output.matmul(&column(inputs.k, t));
            let dk = with_output.mt().matmul(&column(inputs.v, t));
            let db = with_output.mt().matmul(&s);
            let ds = with_output.matmul(&column(inputs.b, t));
            let da = before.mt().matmul(&ds);
            let dd = (&with_output * &before).sum_dim_intlist([-2i64].as_slice(), false, None::<Kind>).unsqueeze(-1);
            g = with_output * row(&decay, t) + ds.matmul(&row(inputs.a, t));
            for (list, grad) in grads.iter_mut().zip([dr, dd, dk, dv, da, db]) {
                list.push(grad.squeeze_dim(-1));
            }
        }
        let [dr, dd, dk, dv, da, db] = grads.map(|mut list| {
            list.reverse();
            Tensor::stack(&list, 1)
        });
        let dw = dd * &decay * -inputs.w.exp();
        Ok(Gradients { dr, dw, dk, dv, da, db, ds0: g })
    }
}

fn initial_state(inputs: &Inputs<'_>) -> Tensor {
    let size = inputs.r.size();
    let zeros = || Tensor::zeros([size[0], size[2], size[3], size[3]], (inputs.r.kind(), inputs.r.device()));
    inputs.s0.map_or_else(zeros, Tensor::shallow_clone)
}

/// Step `t` of x [B, T, H, 64] as columns [B, H, 64, 1].
fn column(x: &Tensor, t: i64) -> Tensor {
    x.select(1, t).unsqueeze(-1)
}

/// Step `t` of x [B, T, H, 64] as rows [B, H, 1, 64].
fn row(x: &Tensor, t: i64) -> Tensor {
    x.select(1, t).unsqueeze(-2)
}
