//! The names and shapes of an RWKV-7 network's parameters, from three numbers. No torch: plans count
//! parameters with it.

use midi_ingest::job::exit::{Error, Result};
use serde::{Deserialize, Serialize};

/// Lanes of a head.
pub const HEAD: usize = 64;

/// The shape of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shape {
    /// Blocks (L).
    pub layers: usize,
    /// Width (D), a multiple of 64.
    pub width: usize,
    /// Token ids (V).
    pub vocabulary: usize,
}

/// The widths of the four low-rank pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRank {
    /// Of the decay.
    pub w: usize,
    /// Of the in-context learning rate.
    pub a: usize,
    /// Of the value residual.
    pub v: usize,
    /// Of the output gate.
    pub g: usize,
}

/// Bounds far above any network of today, so that a wrong number is an error and does not take all memory.
const MOST_LAYERS: usize = 1024;
const MOST_WIDTH: usize = 1 << 16;

impl Shape {
    /// The shape, after checking that such a network exists.
    ///
    /// # Errors
    /// The width is no multiple of 64, there are fewer than two layers (the first values divide by
    /// L − 1) or too many, or there is no token: exit code 78.
    pub fn new(layers: usize, width: usize, vocabulary: usize) -> Result<Self> {
        if width == 0 || !width.is_multiple_of(HEAD) {
            let near = width.div_ceil(HEAD).max(1) * HEAD;
            return Err(Error::mismatch(format!("`width` is {width}; it must be a multiple of {HEAD}"))
                .hint(format!("the next one is {near}")));
        }
        if layers < 2 {
            return Err(Error::mismatch(format!("`layers` is {layers}; RWKV-7 needs at least 2")));
        }
        if layers > MOST_LAYERS || width > MOST_WIDTH {
            return Err(Error::mismatch(format!(
                "a network of {layers} layers of width {width} is larger than any that is known here"
            ))
            .hint(format!("the most are {MOST_LAYERS} and {MOST_WIDTH}")));
        }
        if vocabulary == 0 {
            return Err(Error::mismatch("the vocabulary is empty"));
        }
        Ok(Shape { layers, width, vocabulary })
    }

    /// Heads of a layer (H).
    pub fn heads(&self) -> usize {
        self.width / HEAD
    }

    /// The widths of the low-rank pairs: max(32, 32·round(c·Dᵖ / 32)), rounding halves to even.
    pub fn low_rank(&self) -> LowRank {
        let d = self.width as f64;
        let round = |x: f64| ((x / 32.0).round_ties_even() as usize * 32).max(32);
        let root = d.sqrt();
        LowRank { w: round(1.8 * root), a: round(1.8 * root), v: round(1.3 * root), g: round(0.6 * d.powf(0.8)) }
    }

    /// Every parameter's name and shape, in the order of the reference's state dictionary.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let Shape { layers, width: d, vocabulary } = *self;
        let mut list = vec![("emb.weight".to_owned(), vec![vocabulary, d])];
        for layer in 0..layers {
            let mut add = |name: &str, shape: &[usize]| list.push((format!("blocks.{layer}.{name}"), shape.to_vec()));
            for norm in ["ln1", "ln2", "ln0"] {
                if norm != "ln0" || layer == 0 {
                    add(&format!("{norm}.weight"), &[d]);
                    add(&format!("{norm}.bias"), &[d]);
                }
            }
            for mix in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"] {
                add(&format!("att.{mix}"), &[1, 1, d]);
            }
            let rank = self.low_rank();
            for (name, rank, bias) in
                [("w", rank.w, true), ("a", rank.a, true), ("v", rank.v, true), ("g", rank.g, false)]
            {
                add(&format!("att.{name}1"), &[d, rank]);
                add(&format!("att.{name}2"), &[rank, d]);
                if bias {
                    add(&format!("att.{name}0"), &[1, 1, d]);
                }
            }
            add("att.k_k", &[1, 1, d]);
            add("att.k_a", &[1, 1, d]);
            add("att.r_k", &[self.heads(), HEAD]);
            for matrix in ["receptance", "key", "value", "output"] {
                add(&format!("att.{matrix}.weight"), &[d, d]);
            }
            add("att.ln_x.weight", &[d]);
            add("att.ln_x.bias", &[d]);
            add("ffn.x_k", &[1, 1, d]);
            add("ffn.key.weight", &[4 * d, d]);
            add("ffn.value.weight", &[d, 4 * d]);
        }
        list.push(("ln_out.weight".to_owned(), vec![d]));
        list.push(("ln_out.bias".to_owned(), vec![d]));
        list.push(("head.weight".to_owned(), vec![vocabulary, d]));
        list
    }

    /// The number of single parameters.
    pub fn count(&self) -> u64 {
        self.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The shape of the network that parameters of these names and shapes belong to.
    ///
    /// # Errors
    /// They are not those of an RWKV-7 network: exit code 78, naming the first that is missing, left
    /// over or of another shape.
    pub fn of_parameters<'a>(found: impl Iterator<Item = (&'a str, &'a [usize])> + Clone) -> Result<Self> {
        let wrong =
            |what: String| Error::mismatch(format!("these are not the parameters of an RWKV-7 network: {what}"));
        let get = |name: &str| found.clone().find(|(n, _)| *n == name).map(|(_, shape)| shape);
        let Some(&[vocabulary, width]) = get("emb.weight") else {
            return Err(wrong("`emb.weight` is missing or not a matrix".into()));
        };
        let layers = found.clone().filter(|(name, _)| name.ends_with(".ln1.weight")).count();
        let shape = Shape::new(layers, width, vocabulary)?;
        let expected = shape.parameters();
        for (name, shape) in &expected {
            match get(name) {
                None => return Err(wrong(format!("`{name}` is missing"))),
                Some(found) if found != shape => {
                    return Err(wrong(format!("`{name}` is {found:?} instead of {shape:?}")));
                }
                Some(_) => {}
            }
        }
        let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        match found.clone().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(wrong(format!("`{name}` is left over"))),
            None => Ok(shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;

    use super::*;

    #[test]
    fn the_published_network_has_its_number_of_parameters() {
        let shape = Shape::new(12, 384, 16_000).expect("fits");
        assert_eq!(shape.count(), 35_085_312);
        assert_eq!(shape.parameters().len(), 402);
        assert_eq!(shape.low_rank(), LowRank { w: 32, a: 32, v: 32, g: 64 });
    }

    #[test]
    fn a_width_that_heads_do_not_fill_is_refused() {
        let error = Shape::new(2, 100, 10).expect_err("no heads");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert_eq!(error.hint_text(), Some("the next one is 128"));
        assert!(Shape::new(1, 64, 10).is_err());
    }

    #[test]
    fn a_shape_is_known_by_its_parameters() {
        let shape = Shape::new(3, 128, 50).expect("fits");
        let mut list = shape.parameters();
        let of = |list: &[(String, Vec<usize>)]| {
            Shape::of_parameters(list.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())))
        };
        assert_eq!(of(&list).expect("known"), shape);
        list[5].1 = vec![7];
        assert!(of(&list).expect_err("wrong").to_string().contains(&list[5].0));
        let left = ("blocks.0.att.time_state".to_owned(), vec![2, 64, 64]);
        list = shape.parameters();
        list.push(left);
        assert!(of(&list).expect_err("left over").to_string().contains("time_state"));
        list.remove(3);
        assert!(of(&list).is_err());
    }
}
