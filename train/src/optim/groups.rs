//! Which parameters decay and which learn faster.

/// How a parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// What the learning rate is multiplied by.
    pub rate: f64,
    /// Whether weight decay applies.
    pub decays: bool,
}

/// The group of the parameter called `name` of shape `size`: the decay's bias `att.w0` learns at twice the
/// rate; matrices called `….weight` decay; everything else, the low-rank pairs and `r_k` included, does not.
pub fn group(name: &str, size: &[i64]) -> Group {
    if name.ends_with("att.w0") {
        return Group { rate: 2.0, decays: false };
    }
    let dimensions = size.iter().filter(|&&n| n != 1).count();
    Group { rate: 1.0, decays: dimensions >= 2 && name.ends_with(".weight") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    #[test]
    fn the_published_network_has_its_groups() {
        let shape = Shape::new(12, 384, 16_000).expect("fits");
        let mut counts = [0, 0, 0];
        for (name, size) in shape.parameters() {
            let size: Vec<i64> = size.into_iter().map(|n| n as i64).collect();
            match group(&name, &size) {
                Group { rate: 2.0, decays: false } => counts[0] += 1,
                Group { rate: 1.0, decays: true } => counts[1] += 1,
                Group { rate: 1.0, decays: false } => counts[2] += 1,
                other => panic!("{name} is in {other:?}"),
            }
        }
        assert_eq!(counts, [12, 74, 316]);
    }
}
