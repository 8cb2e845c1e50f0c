//! Files of named tensors: safetensors, PyTorch's `.pth` and rwkv.cpp's `.bin`, told apart by their extension.

pub mod ggml;
mod pickle;
pub mod pth;
pub mod safetensors;
mod zip;

use std::path::Path;

use midi_ingest::job::exit::{Error, Result, at_path};
use tch::Kind;

use crate::model::Parameters;

/// The tensors of the file at `path`, as they are stored.
///
/// # Errors
/// Its extension is another (78), it cannot be read (74), or is not such a file (65).
pub fn read(path: &Path) -> Result<Parameters> {
    let format = Format::of(path)?;
    let bytes = fs_err::read(path).map_err(at_path("read", path))?;
    let name = path.display().to_string();
    match format {
        Format::Safetensors => Ok(safetensors::read(&bytes, &name)?.0),
        Format::Pth => pth::read(&bytes, &name),
        Format::Ggml => ggml::read(&bytes, &name),
    }
}

/// Writes tensors to `path` in the format of its extension, as numbers of `kind`, or as they are.
///
/// # Errors
/// Its extension is another, or the format does not have these tensors or numbers (78); it cannot be written (74).
pub fn write(path: &Path, tensors: &Parameters, kind: Option<Kind>) -> Result<()> {
    let bytes = match Format::of(path)? {
        Format::Ggml if kind == Some(Kind::BFloat16) => {
            return Err(Error::mismatch("rwkv.cpp's files hold fp16 or fp32, not bf16"));
        }
        Format::Ggml => ggml::write(tensors, kind == Some(Kind::Half))?,
        other => {
            let cast = |(name, tensor): (&str, &tch::Tensor)| {
                (name.to_owned(), tensor.detach().to_kind(kind.unwrap_or(tensor.kind())))
            };
            let cast: Parameters = tensors.iter().map(cast).collect();
            if other == Format::Pth { pth::write(&cast)? } else { safetensors::write(&cast, &[])? }
        }
    };
    fs_err::write(path, bytes).map_err(at_path("write", path))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Pth,
    Ggml,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("pth") => Ok(Format::Pth),
            Some("bin") => Ok(Format::Ggml),
            _ => Err(Error::mismatch(format!("the format of `{}` is not known", path.display()))
                .hint("it is told by the extension: .safetensors, .pth or .bin (rwkv.cpp)")),
        }
    }
}
