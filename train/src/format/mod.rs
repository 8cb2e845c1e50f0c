//! Files of named tensors: safetensors, PyTorch's `.pth`, rwkv.cpp's `.bin`, and tuned states as its `.state`, told apart
//! by their extension.

pub mod ggml;
mod pickle;
pub mod pth;
pub mod safetensors;
pub mod state;
mod zip;

use std::io::Write;
use std::path::Path;

use midi_ingest::job::exit::{Error, Result, at_path};
use tch::Kind;

use crate::model::Parameters;

/// The tensors of the file at `path`, as they are stored; a `.state` is of a network of `layers` blocks.
///
/// # Errors
/// Its extension is another, or a `.state` has no `layers` (78), it cannot be read (74), or is not such a file (65).
pub fn read(path: &Path, layers: Option<usize>) -> Result<Parameters> {
    Format::of(path)?;
    of_bytes(&fs_err::read(path).map_err(at_path("read", path))?, &path.display().to_string(), layers)
}

/// As [`read`], of a file's contents that were read already; `name` tells the format, and is for messages.
///
/// # Errors
/// As [`read`].
pub fn of_bytes(bytes: &[u8], name: &str, layers: Option<usize>) -> Result<Parameters> {
    match Format::of(Path::new(name))? {
        Format::Safetensors => Ok(safetensors::read(bytes, name)?.0),
        Format::Pth => pth::read(bytes, name),
        Format::Ggml => ggml::read(bytes, name),
        Format::State => state::read(bytes, name, layers),
    }
}

/// Whether `uri`, a path or a URL, names a file of weights, and no folder.
pub fn is_file(uri: &str) -> bool {
    let path = Path::new(uri);
    !path.is_dir() && Format::of(path).is_ok()
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
        Format::State if kind.is_some_and(|kind| kind != Kind::Float) => {
            return Err(Error::mismatch("a `.state` file holds fp32 and nothing else"));
        }
        Format::State => state::write(tensors)?,
        other => {
            let cast = |(name, tensor): (&str, &tch::Tensor)| {
                (name.to_owned(), tensor.detach().to_kind(kind.unwrap_or(tensor.kind())))
            };
            let cast: Parameters = tensors.iter().map(cast).collect();
            if other == Format::Pth { pth::write(&cast)? } else { safetensors::write(&cast, &[])? }
        }
    };
    replace(path, &bytes).map_err(at_path("write", path))
}

/// Writes the whole file before it stands at `path`: what stood there stays if this does not end.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let mut file = fs_err::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&beside, path)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Pth,
    Ggml,
    State,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("pth") => Ok(Format::Pth),
            Some("bin") => Ok(Format::Ggml),
            Some("state") => Ok(Format::State),
            _ => Err(Error::mismatch(format!("the format of `{}` is not known", path.display()))
                .hint("it is told by the extension: .safetensors, .pth, .bin or .state (both rwkv.cpp)")),
        }
    }
}
