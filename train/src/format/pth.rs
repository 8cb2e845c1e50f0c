//! PyTorch's `.pth`: a zip archive with a pickled state dictionary and one file a storage. Files of others are
//! data and never executed.

use std::collections::HashMap;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::pickle::{self, Element, View};
use super::zip;
use crate::fault;
use crate::model::Parameters;

/// What DeepSpeed puts before every name.
const WRAPPER: &str = "_forward_module.";

/// The tensors of a file as they are stored, in its order; `name` is only for messages.
///
/// # Errors
/// It is not such an archive, is cut, or holds anything but tensors of f32, f16 or bf16: exit code 65.
pub fn read(bytes: &[u8], name: &str) -> Result<Parameters> {
    let bad = |what: &dyn std::fmt::Display| Error::data(format!("`{name}` is not a readable .pth file: {what}"));
    let entries = zip::entries(bytes, name)?;
    let program = entries.iter().find_map(|(entry, range)| Some((entry.strip_suffix("data.pkl")?, range.clone())));
    let (folder, program) = program.ok_or_else(|| bad(&"it has no `data.pkl`"))?;
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(bad(&"its numbers are big-endian"));
    }
    let mut storages: HashMap<(String, Kind), Tensor> = HashMap::new();
    let mut parameters = Parameters::new();
    // Views of one storage may overlap; a file that unfolds into far more than it holds is refused.
    let mut left = bytes.len().saturating_mul(16);
    for (tensor, view) in pickle::tensors(&bytes[program]).map_err(|e| bad(&e))? {
        let kind = match view.storage.element {
            Element::F32 => Kind::Float,
            Element::F16 => Kind::Half,
            Element::Bf16 => Kind::BFloat16,
        };
        let key = (view.storage.key.clone(), kind);
        if !storages.contains_key(&key) {
            let range = entries.get(&format!("{folder}data/{}", key.0));
            let data = &bytes[range.ok_or_else(|| bad(&format!("the storage of `{tensor}` is missing")))?.clone()];
            let count = data.len() / kind.elt_size_in_bytes();
            let whole = &data[..count * kind.elt_size_in_bytes()];
            let storage = Tensor::f_from_data_size(whole, &[count as i64], kind).map_err(fault::torch)?;
            storages.insert(key.clone(), storage);
        }
        let storage = storages.get(&key).ok_or_else(|| Error::bug("a storage that was just read is gone"))?;
        let elements = fits(&view, storage.numel())
            .ok_or_else(|| bad(&format!("`{tensor}` reaches beyond its storage of {} numbers", storage.numel())))?;
        left = left
            .checked_sub(elements * kind.elt_size_in_bytes())
            .ok_or_else(|| bad(&"its tensors are far larger than the file"))?;
        let read = storage.f_as_strided(&view.size, &view.strides, view.offset).map_err(fault::torch)?;
        parameters.insert(tensor.strip_prefix(WRAPPER).unwrap_or(&tensor), read.copy());
    }
    Ok(parameters)
}

/// The number of elements of a view that lies within `length` elements and has no more than those.
fn fits(view: &View, length: usize) -> Option<usize> {
    let (mut count, mut last) = (1usize, usize::try_from(view.offset).ok()?);
    if view.size.len() != view.strides.len() {
        return None;
    }
    for (&size, &stride) in view.size.iter().zip(&view.strides) {
        let (size, stride) = (usize::try_from(size).ok()?, usize::try_from(stride).ok()?);
        count = count.checked_mul(size)?;
        last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
    }
    let inside = if count == 0 { last <= length } else { last < length };
    (inside && count <= length).then_some(count)
}

/// The bytes of a file with `tensors`, which `torch.load(…, weights_only=True)` reads as a dictionary.
///
/// # Errors
/// A kind of number that is not written here, or a file of 4 GiB or more (78).
pub fn write(tensors: &Parameters) -> Result<Vec<u8>> {
    let mut program = b"\x80\x02}(".to_vec();
    let mut entries = Vec::new();
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        let storage = match tensor.kind() {
            Kind::Float => "FloatStorage",
            Kind::Half => "HalfStorage",
            Kind::BFloat16 => "BFloat16Storage",
            other => {
                return Err(Error::mismatch(format!("`{name}` is {other:?}, which is not written to .pth here"))
                    .hint("say the numbers: `--dtype fp32`"));
            }
        };
        let tensor = tensor.detach().contiguous();
        text(&mut program, name);
        program.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut program, "storage");
        program.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut program, &number.to_string());
        text(&mut program, "cpu");
        int(&mut program, tensor.numel() as i64);
        program.extend(b"tQ");
        int(&mut program, 0);
        for list in [tensor.size(), tensor.stride()] {
            program.push(b'(');
            list.into_iter().for_each(|n| int(&mut program, n));
            program.push(b't');
        }
        program.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut data, tensor.numel()).map_err(fault::torch)?;
        entries.push((format!("archive/data/{number}"), data));
    }
    program.extend(b"u.");
    entries.insert(0, ("archive/data.pkl".to_owned(), program));
    entries.insert(1, ("archive/byteorder".to_owned(), b"little".to_vec()));
    entries.push(("archive/version".to_owned(), b"3\n".to_vec()));
    zip::archive(&entries)
}

fn text(program: &mut Vec<u8>, text: &str) {
    program.push(b'X');
    program.extend((text.len() as u32).to_le_bytes());
    program.extend(text.bytes());
}

fn int(program: &mut Vec<u8>, n: i64) {
    match i32::try_from(n) {
        Ok(n) => {
            program.push(b'J');
            program.extend(n.to_le_bytes());
        }
        Err(_) => {
            program.extend([0x8a, 8]);
            program.extend(n.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;
    use proptest::prelude::*;

    use super::*;

    fn tensors() -> Parameters {
        let wide = Tensor::from_slice(&[1.5f32, -0.0, 3.25, 4.0, 5.0, -6.5]).reshape([2, 3]);
        [
            ("a.weight".to_owned(), wide.copy()),
            ("half".to_owned(), wide.tr().to_kind(Kind::Half)),
            ("brain".to_owned(), wide.to_kind(Kind::BFloat16)),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = write(&tensors()).expect("writes");
        assert_eq!(bytes, write(&tensors()).expect("writes"));
        let again = read(&bytes, "x.pth").expect("reads");
        assert_eq!(again.len(), 3);
        for (name, tensor) in tensors().iter() {
            let found = again.get(name).expect("there");
            assert!(found.kind() == tensor.kind() && found.equal(tensor), "{name}");
        }
    }

    #[test]
    fn strided_views_share_a_storage_and_wrapped_names_are_unwrapped() {
        // Two views of storage 0, numbers 0 to 5: a transposed 3 × 2 and, from number 1, every second one.
        let mut program = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
        for (name, offset, size, strides) in
            [("_forward_module.t", 0, vec![3, 2], vec![1, 3]), ("s", 1, vec![3], vec![2])]
        {
            text(&mut program, name);
            program.extend(b"ctorch._utils\n_rebuild_parameter\n(ctorch._utils\n_rebuild_tensor_v2\n((");
            text(&mut program, "storage");
            program.extend(b"ctorch\nFloatStorage\n");
            text(&mut program, "0");
            text(&mut program, "cuda:0");
            program.extend(b"K\x06tQK");
            program.push(offset);
            for list in [size, strides] {
                program.push(b'(');
                list.into_iter().for_each(|n| int(&mut program, n));
                program.push(b't');
            }
            program.extend(b"\x89ccollections\nOrderedDict\n)RtR\x89ccollections\nOrderedDict\n)RtR");
        }
        program.extend(b"u.");
        let data: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
        let files = [("m/data.pkl".to_owned(), program), ("m/data/0".to_owned(), data)];
        let read = read(&zip::archive(&files).expect("writes"), "x").expect("reads");
        let values = |name: &str| Vec::<f32>::try_from(read.get(name).expect("there").flatten(0, -1)).expect("f32");
        assert_eq!(values("t"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(values("s"), [1.0, 3.0, 5.0]);
    }

    #[test]
    fn hostile_programs_are_refused() {
        let file = |program: &[u8]| zip::archive(&[("m/data.pkl".to_owned(), program.to_vec())]).expect("writes");
        for (program, says) in [
            (b"cos\nsystem\n(X\x02\0\0\0idtR.".as_slice(), "`os.system` is not part of a state dictionary"),
            (b"cbuiltins\neval\n.", "builtins.eval"),
            (b"}", "ends too early"),
            (b"N.", "does not hold a dictionary"),
            (b"X\xff\xff\xff\xff", "ends too early"),
            (b"h\x07.", "was not kept"),
            (b"i", "the instruction 0x69"),
        ] {
            let error = read(&file(program), "x.pth").expect_err(says);
            assert_eq!(error.exit(), Exit::BadData);
            assert!(error.to_string().contains(says), "{error}");
        }
        let view = |size: &[i64], strides: &[i64], offset| View {
            storage: pickle::Storage { element: Element::F32, key: String::new() },
            offset,
            size: size.to_vec(),
            strides: strides.to_vec(),
        };
        assert_eq!(fits(&view(&[2, 3], &[3, 1], 0), 6), Some(6));
        for (size, strides, offset) in [
            (vec![2, 3], vec![3, 1], 1),
            (vec![7], vec![0], 0),
            (vec![i64::MAX, i64::MAX], vec![1, 1], 0),
            (vec![2], vec![-1], 1),
            (vec![2], vec![i64::MAX], 0),
            (vec![2], vec![], 0),
            (vec![1], vec![1], -1),
        ] {
            assert_eq!(fits(&view(&size, &strides, offset), 6), None, "{size:?} {strides:?} {offset}");
        }
    }

    /// PyTorch itself reads what is written here, without permission to execute anything.
    #[test]
    #[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn pytorch_reads_what_is_written() {
        use std::process::Command;
        let python = |code: &str| Command::new("python3").args(["-c", code]).output();
        if !python("import torch").is_ok_and(|output| output.status.success()) {
            println!("skipped: `python3 -c 'import torch'` does not work");
            return;
        }
        let folder = tempfile::tempdir().expect("folder");
        let (ours, theirs) = (folder.path().join("ours.pth"), folder.path().join("theirs.pth"));
        std::fs::write(&ours, write(&tensors()).expect("writes")).expect("writes");
        let code = format!(
            "import torch; d = torch.load({ours:?}, weights_only=True); torch.save(d, {theirs:?}); \
             print({{k: (str(v.dtype), v.float().flatten().tolist()) for k, v in d.items()}})"
        );
        let output = python(&code).expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for part in [
            "'a.weight': ('torch.float32', [1.5, -0.0, 3.25, 4.0, 5.0, -6.5])",
            "'half': ('torch.float16', [1.5, 4.0, -0.0, 5.0, 3.25, -6.5])",
            "'brain': ('torch.bfloat16'",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let again = read(&std::fs::read(&theirs).expect("reads"), "theirs.pth").expect("reads");
        for (name, tensor) in tensors().iter() {
            assert!(again.get(name).expect("there").equal(tensor), "{name}");
        }
        println!("PyTorch read {} tensors", again.len());
    }

    proptest! {
        #[test]
        fn damaged_files_are_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = write(&tensors()).expect("writes");
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Err(error) = read(&bytes, "x.pth") {
                prop_assert!(error.exit() == Exit::BadData || error.to_string().starts_with("torch:"), "{}", error);
            }
        }

        #[test]
        fn any_program_ends(program in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = pickle::tensors(&program);
        }
    }
}
