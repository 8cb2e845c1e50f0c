//! Tensors by name, in the order of the state dictionary.

use std::collections::HashMap;

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::shape::Shape;
use crate::autograd::forget_gradient;

/// An ordered map of named tensors. Clones of its tensors' handles share their storage, so an optimiser
/// that writes in place changes the model that was built on them.
#[derive(Debug, Default)]
pub struct Parameters {
    entries: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
}

impl Parameters {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor at the end, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        let name = name.into();
        match self.index.get(&name) {
            Some(&at) => self.entries[at].1 = tensor,
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, tensor));
            }
        }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// There is none: exit code 78.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.find(name).ok_or_else(|| Error::mismatch(format!("the parameter `{name}` is missing")))
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.entries[at].1)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> + Clone {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those whose name `takes` takes, in order; they share storage and gradients with these.
    pub fn only(&self, takes: impl Fn(&str) -> bool) -> Self {
        let taken = self.iter().filter(|(name, _)| takes(name));
        taken.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
    }

    /// Those with these names, in this order.
    ///
    /// # Errors
    /// One is missing: as [`Parameters::get`].
    pub fn in_order(&self, names: &[(String, Vec<usize>)]) -> Result<Self> {
        names.iter().map(|(name, _)| Ok((name.clone(), self.get(name)?.shallow_clone()))).collect()
    }

    /// All of them on `device`; those that are there already share storage with these.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        let moved = |(name, tensor): (&str, &Tensor)| {
            Ok((name.to_owned(), tensor.detach().f_to_device(device).map_err(crate::fault::torch)?))
        };
        self.iter().map(moved).collect()
    }

    /// Makes every tensor a leaf whose gradient is collected, or not.
    pub fn set_trainable(&mut self, trainable: bool) {
        for (_, tensor) in &mut self.entries {
            *tensor = tensor.set_requires_grad(trainable);
        }
    }

    /// Leaves all tensors without a gradient.
    pub fn clear_gradients(&mut self) {
        for (_, tensor) in &mut self.entries {
            forget_gradient(tensor);
        }
    }

    /// The shape of the network that these are the parameters of, if their order is left aside.
    ///
    /// # Errors
    /// They are not those of an RWKV-7 network, or not f32: exit code 78.
    pub fn shape(&self) -> Result<Shape> {
        if let Some((name, tensor)) = self.iter().find(|(_, tensor)| tensor.kind() != Kind::Float) {
            return Err(Error::mismatch(format!("the parameter `{name}` is {:?}; weights are f32", tensor.kind())));
        }
        let sizes: Vec<(&str, Vec<usize>)> =
            self.iter().map(|(name, tensor)| (name, tensor.size().into_iter().map(|n| n as usize).collect())).collect();
        Shape::of_parameters(sizes.iter().map(|(name, size)| (*name, size.as_slice())))
    }
}

impl FromIterator<(String, Tensor)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        let mut parameters = Parameters::new();
        for (name, tensor) in tensors {
            parameters.insert(name, tensor);
        }
        parameters
    }
}
