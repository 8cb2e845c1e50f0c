//! The first values against the table of the model's specification, every row of it, and against numbers worked out by
//! hand.

use super::*;

const SHAPE: Shape = Shape { layers: 3, width: 128, vocabulary: 300 };

/// A row of the table: what the values of a parameter must be.
enum Row {
    /// f(c) in channel c, exactly.
    Channels(Box<dyn Fn(f64) -> f64>),
    /// Orthogonal, of this gain.
    Orthogonal(f64),
    /// Evenly from minus this to this.
    Uniform(f64),
}

/// The row of a parameter; a name that no row has is a mistake of the table.
fn row(shape: Shape, name: &str, size: &[usize]) -> Row {
    let (width, vocabulary) = (shape.width as f64, shape.vocabulary as f64);
    let constant = |value: f64| Row::Channels(Box::new(move |_| value));
    let Some((layer, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "emb.weight" => Row::Uniform(1e-4),
            "head.weight" if vocabulary > width => Row::Orthogonal(0.5 * (vocabulary / width).sqrt()),
            "head.weight" => Row::Orthogonal(0.5),
            "ln_out.weight" => constant(1.0),
            "ln_out.bias" => constant(0.0),
            _ => panic!("{name} is in no row"),
        };
    };
    let i: f64 = layer.parse().expect("a layer");
    let layers = shape.layers as f64;
    let (q0, q1) = (i / (layers - 1.0), 1.0 - i / layers);
    // 1 - (p^power + shift), p = c/D.
    let mix = |power: f64, shift: f64| Row::Channels(Box::new(move |c| 1.0 - ((c / width).powf(power) + shift)));
    match rest {
        "ln0.weight" | "ln1.weight" | "ln2.weight" => constant(1.0),
        "ln0.bias" | "ln1.bias" | "ln2.bias" | "att.ln_x.bias" => constant(0.0),
        "att.ln_x.weight" => constant(((1.0 + i) / layers).powf(0.7)),
        "att.x_r" | "att.x_g" => mix(0.2 * q1, 0.0),
        "att.x_w" | "att.x_a" => mix(0.9 * q1, 0.0),
        "att.x_k" => mix(0.9 * q1, 0.4 * q0),
        "att.x_v" => mix(0.4 * q1, 0.6 * q0),
        "ffn.x_k" => mix(q1 * q1 * q1 * q1, 0.0),
        "att.w0" => Row::Channels(Box::new(move |c| -6.5 + 5.0 * (c / (width - 1.0)).powf(0.85 + q0.sqrt()))),
        "att.w1" | "att.a1" | "att.v1" | "att.g1" => constant(0.0),
        "att.w2" | "att.a2" | "att.v2" | "att.g2" => {
            let (rows, columns) = (size[0] as f64, size[1] as f64);
            Row::Orthogonal(if rows > columns { 0.1 * (rows / columns).sqrt() } else { 0.1 })
        }
        "att.a0" | "att.r_k" | "att.output.weight" | "ffn.value.weight" => constant(0.0),
        "att.v0" | "att.k_a" => constant(1.0),
        "att.k_k" => constant(0.85),
        "att.receptance.weight" | "att.value.weight" | "ffn.key.weight" => Row::Orthogonal(1.0),
        "att.key.weight" => Row::Orthogonal(0.1),
        _ => panic!("{name} is in no row"),
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("a vector")
}

/// Mean and mean square.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    (values.iter().sum::<f64>() / count, values.iter().map(|x| x * x).sum::<f64>() / count)
}

#[test]
fn every_parameter_is_what_its_row_says() {
    // More words than channels and fewer, and the fewest layers.
    for (layers, width, vocabulary) in [(3, 128, 300), (2, 64, 50), (2, 192, 192)] {
        let shape = Shape::new(layers, width, vocabulary).expect("fits");
        let parameters = init(shape, 1);
        let all = shape.parameters();
        assert_eq!(parameters.len(), all.len());
        for (name, size) in all {
            let tensor = parameters.get(&name).expect("is there");
            assert_eq!(tensor.size(), long(&size), "{name}");
            match row(shape, &name, &size) {
                Row::Channels(value) => {
                    for (c, found) in numbers(tensor).into_iter().enumerate() {
                        let expected = value(c as f64);
                        // The last bit of an f32 is open: the reference computes some of these in f32.
                        let error = (found - expected).abs();
                        assert!(error <= f64::from(f32::EPSILON) * expected.abs().max(1.0), "{name} {c}: {found}");
                    }
                }
                Row::Orthogonal(gain) => is_orthogonal(&name, tensor, gain),
                Row::Uniform(bound) => {
                    let values = numbers(tensor);
                    let (mean, square) = moments(&values);
                    let count = values.len() as f64;
                    assert!(values.iter().all(|x| x.abs() <= bound), "{name}");
                    // Five standard errors of the mean, and of the mean square, whose variance is 4/45 of bound⁴.
                    assert!(mean.abs() < 5.0 * bound / (3.0 * count).sqrt(), "{name}: {mean:e}");
                    let error = square / (bound * bound) - 1.0 / 3.0;
                    assert!(error.abs() < 5.0 * (4.0 / 45.0 / count).sqrt(), "{name}: {error:e}");
                }
            }
        }
    }
}

/// That the shorter side's vectors are orthogonal and of length `gain`, that the numbers are spread as on a random
/// rotation, and that the signs of the factorisation are taken out: without that, the diagonal leans to one side.
fn is_orthogonal(name: &str, tensor: &Tensor, gain: f64) {
    let matrix = tensor.to_kind(Kind::Double);
    let (rows, columns) = (matrix.size()[0], matrix.size()[1]);
    let gram = if rows < columns { matrix.matmul(&matrix.tr()) } else { matrix.tr().matmul(&matrix) };
    let (short, long) = (rows.min(columns) as f64, rows.max(columns) as f64);
    let expected = Tensor::eye(short as i64, (Kind::Double, Device::Cpu)) * (gain * gain);
    let worst = (gram - expected).abs().max().double_value(&[]) / (gain * gain);
    assert!(worst < 2e-6, "{name}: {worst:e}");
    // Each number has mean 0 and mean square gain²/long; the second follows from the Gram matrix.
    let spread = gain / long.sqrt();
    let (mean, square) = moments(&numbers(tensor));
    assert!((square / (spread * spread) - 1.0).abs() < 1e-5, "{name}: {square:e}");
    assert!(mean.abs() < 5.0 * spread / (short * long).sqrt(), "{name}: {mean:e}");
    let (mean, _) = moments(&numbers(&matrix.diagonal(0, 0, 1)));
    assert!(mean.abs() < 5.0 * spread / short.sqrt(), "{name}: {mean:e} on the diagonal");
}

#[test]
fn channel_functions_are_exact() {
    let p = init(SHAPE, 1);
    let at = |name: &str, channel: usize| numbers(p.get(name).expect("is there"))[channel];
    let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x} {y}");
    // Layer 1 of 3: depth ½, height ⅔; channel 32 of 128: p = ¼.
    near(at("blocks.1.att.x_r", 32), 1.0 - 0.25f64.powf(0.2 * 2.0 / 3.0));
    near(at("blocks.1.att.x_g", 32), 1.0 - 0.25f64.powf(0.2 * 2.0 / 3.0));
    near(at("blocks.1.att.x_w", 32), 1.0 - 0.25f64.powf(0.6));
    near(at("blocks.1.att.x_a", 32), 1.0 - 0.25f64.powf(0.6));
    near(at("blocks.1.att.x_k", 32), 1.0 - 0.25f64.powf(0.6) - 0.2);
    near(at("blocks.1.att.x_v", 32), 1.0 - 0.25f64.powf(0.8 / 3.0) - 0.3);
    near(at("blocks.1.ffn.x_k", 32), 1.0 - 0.25f64.powf(16.0 / 81.0));
    near(at("blocks.1.att.w0", 32), -6.5 + 5.0 * (32.0f64 / 127.0).powf(0.85 + 0.5f64.sqrt()));
    // The first channel, where 0 to a power is 0, and the ends of the decay.
    near(at("blocks.0.att.x_r", 0), 1.0);
    near(at("blocks.2.att.x_v", 0), 0.4);
    near(at("blocks.0.att.w0", 0), -6.5);
    near(at("blocks.2.att.w0", 127), -1.5);
}

#[test]
fn values_depend_on_the_seed_and_on_nothing_else() {
    let (p, same, other) = (init(SHAPE, 1), init(SHAPE, 1), init(SHAPE, 2));
    assert_eq!(p.shape().expect("a network"), SHAPE);
    for ((name, tensor), (_, same)) in p.iter().zip(same.iter()) {
        assert!(tensor.equal(same), "{name}");
    }
    assert!(!p.get("head.weight").expect("there").equal(other.get("head.weight").expect("there")));
    let (r, v) = ("blocks.0.att.receptance.weight", "blocks.0.att.value.weight");
    assert!(!p.get(r).expect("there").equal(p.get(v).expect("there")));
}
