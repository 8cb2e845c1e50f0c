//! The part of Python's pickle language that a PyTorch state dictionary is written in, as data. Nothing is looked
//! up or called: five names are known, each stands for a fixed meaning, and any other is an error. Every value is
//! made by one instruction, and refers to others by number, so a program of n bytes makes at most n values.

/// A value's number.
pub(super) type Id = usize;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Mark,
    Nothing,
    Bool,
    Int(i64),
    Text(String),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(View),
}

/// The names that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Element(Element),
}

/// The kinds of number of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

/// A block of numbers in a file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) element: Element,
    pub(super) key: String,
}

/// A tensor: a view of a storage, in numbers of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) storage: Storage,
    pub(super) offset: i64,
    pub(super) size: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// Runs a program and returns the tensors of the dictionary that it makes, by name.
///
/// # Errors
/// A text for people: an instruction or a name that is not known, or a program that is cut or wrong.
pub(super) fn tensors(program: &[u8]) -> Result<Vec<(String, View)>, String> {
    let mut machine = Machine { rest: program, values: Vec::new(), stack: Vec::new(), memo: Vec::new() };
    let top = machine.run()?;
    let Value::Dict(pairs) = machine.value(top)? else { return Err("it does not hold a dictionary".into()) };
    let pair = |&(key, value): &(Id, Id)| match (machine.value(key)?, machine.value(value)?) {
        (Value::Text(name), Value::Tensor(view)) => Ok((name.clone(), view.clone())),
        (Value::Text(name), _) => Err(format!("`{name}` is not a tensor")),
        _ => Err("a key is not text".into()),
    };
    pairs.iter().map(pair).collect()
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// (number, value) as they were stored; a later one counts.
    memo: Vec<(usize, Id)>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            match self.byte()? {
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.push(Value::Mark),
                b'N' => self.push(Value::Nothing),
                0x88 | 0x89 => self.push(Value::Bool),
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let number = self.number(4)? as u32;
                    self.push(Value::Int(i64::from(number.cast_signed())));
                }
                0x8a => {
                    let count = self.number(1)? as usize;
                    if count > 8 {
                        return Err(format!("a number of {count} bytes"));
                    }
                    let value = self.number(count)?;
                    let unused = 64 - 8 * count as u32;
                    // The highest bit that is there is the sign.
                    let signed = if count == 0 { 0 } else { (value << unused).cast_signed() >> unused };
                    self.push(Value::Int(signed));
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                b')' | b']' => self.push(Value::Sequence(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                count @ 0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0x84..count {
                        items.insert(0, self.pop()?);
                    }
                    self.push(Value::Sequence(items));
                }
                b't' | b'l' => {
                    let items = self.since_mark()?;
                    self.push(Value::Sequence(items));
                }
                b'q' => self.remember(1)?,
                b'r' => self.remember(4)?,
                0x94 => {
                    let top = self.top()?;
                    self.memo.push((self.memo.len(), top));
                }
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (self.value(module)?, self.value(name)?) else {
                        return Err("a name that is not text".into());
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }
                // Attributes of the dictionary, such as its metadata, say nothing about its tensors.
                b'b' => drop(self.pop()?),
                other => return Err(format!("the instruction {other:#04x} is not one of a state dictionary")),
            }
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn value(&self, id: Id) -> Result<&Value, String> {
        self.values.get(id).ok_or_else(|| "a value that is not there".into())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.stack.iter().rposition(|&id| self.values.get(id) == Some(&Value::Mark));
        let mark = mark.ok_or("a mark is missing")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// Little-endian, at most 8 bytes.
    fn number(&mut self, count: usize) -> Result<u64, String> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn int(&mut self, count: usize) -> Result<(), String> {
        let number = self.number(count)?;
        self.push(Value::Int(number as i64));
        Ok(())
    }

    fn text(&mut self, count: usize) -> Result<(), String> {
        let length = self.number(count)? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "text that is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.rest.iter().position(|&byte| byte == b'\n').ok_or("a line without an end")?;
        let line = self.take(length + 1)?;
        String::from_utf8(line[..length].to_vec()).map_err(|_| "text that is not UTF-8".into())
    }

    fn remember(&mut self, count: usize) -> Result<(), String> {
        let (number, top) = (self.number(count)? as usize, self.top()?);
        // Writers count up from 0, so the number is nearly always the next one.
        match self.memo.iter_mut().rev().take(4).find(|(known, _)| *known == number) {
            Some(known) => known.1 = top,
            None => self.memo.push((number, top)),
        }
        Ok(())
    }

    fn recall(&mut self, count: usize) -> Result<(), String> {
        let number = self.number(count)? as usize;
        let direct = self.memo.get(number).filter(|(known, _)| *known == number);
        let found = direct.or_else(|| self.memo.iter().rev().find(|(known, _)| *known == number));
        self.stack.push(found.ok_or("a value that was not kept")?.1);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "FloatStorage") => Global::Element(Element::F32),
            ("torch", "HalfStorage") => Global::Element(Element::F16),
            ("torch", "BFloat16Storage") => Global::Element(Element::Bf16),
            _ => return Err(format!("`{module}.{name}` is not part of a state dictionary of f32, f16 or bf16")),
        };
        self.push(Value::Global(global));
        Ok(())
    }

    /// ("storage", kind, key, location, count) to the storage.
    fn persistent(&mut self) -> Result<(), String> {
        let top = self.pop()?;
        let items = self.sequence(top)?;
        let [tag, element, key, _, _] = items else { return Err("a storage of another kind".into()) };
        let storage = match (self.value(*tag)?, self.value(*element)?, self.value(*key)?) {
            (Value::Text(tag), Value::Global(Global::Element(element)), Value::Text(key)) if tag == "storage" => {
                Storage { element: *element, key: key.clone() }
            }
            _ => return Err("a storage of another kind".into()),
        };
        self.push(Value::Storage(storage));
        Ok(())
    }

    fn sequence(&self, id: Id) -> Result<&[Id], String> {
        match self.value(id)? {
            Value::Sequence(items) => Ok(items),
            _ => Err("something else than a sequence".into()),
        }
    }

    fn ints(&self, id: Id) -> Result<Vec<i64>, String> {
        let int = |&id: &Id| match self.value(id)? {
            Value::Int(n) => Ok(*n),
            _ => Err("something else than a number".to_owned()),
        };
        let items = self.sequence(id)?;
        if items.len() > 8 {
            return Err(format!("a tensor of {} dimensions", items.len()));
        }
        items.iter().map(int).collect()
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.sequence(arguments)?;
        let made = match (self.value(function)?, arguments) {
            (Value::Global(Global::OrderedDict), []) => Value::Dict(Vec::new()),
            (Value::Global(Global::RebuildTensor), [storage, offset, size, strides, ..]) => {
                let (Value::Storage(storage), Value::Int(offset)) = (self.value(*storage)?, self.value(*offset)?)
                else {
                    return Err("a tensor without a storage".into());
                };
                let (size, strides) = (self.ints(*size)?, self.ints(*strides)?);
                Value::Tensor(View { storage: storage.clone(), offset: *offset, size, strides })
            }
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => match self.value(*tensor)? {
                Value::Tensor(view) => Value::Tensor(view.clone()),
                _ => return Err("a parameter that is not a tensor".into()),
            },
            _ => return Err("a call that is not part of a state dictionary".into()),
        };
        self.push(made);
        Ok(())
    }

    /// Sets key, value, key, value, … of the dictionary on top.
    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Some(Value::Dict(pairs)) if items.len().is_multiple_of(2) => {
                pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err("items for something else than a dictionary".into()),
        }
    }
}
