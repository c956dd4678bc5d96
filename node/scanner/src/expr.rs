//! The arithmetic of `#if`.

use crate::{expand::Expander, lex::Kind, load::Tok, mode::Mode, run::Run, unit::Undecided};

/// Parentheses and unary operators within each other.
const NESTED_MAX: usize = 200;

/// A value of `intmax_t`, or of `uintmax_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    bits: u64,
    unsigned: bool,
}

impl Value {
    fn of(truth: bool) -> Self {
        Self { bits: u64::from(truth), unsigned: false }
    }

    fn is_true(self) -> bool {
        self.bits != 0
    }
}

/// Whether the tokens of an `#if` are true.
pub(crate) fn is_true(tokens: &[Tok], run: &mut Run<'_>) -> Result<bool, Undecided> {
    let mut parser = Parser { expander: Expander::new(tokens), ahead: None, run, nested: 0 };
    let value = parser.conditional(true)?;
    match parser.take()? {
        None => Ok(value.is_true()),
        Some(_) => Err(parser.malformed()),
    }
}

struct Parser<'t, 'r, 'a> {
    expander: Expander<'t>,
    ahead: Option<Tok>,
    run: &'r mut Run<'a>,
    nested: usize,
}

impl<'a> Parser<'_, '_, 'a> {
    fn malformed(&self) -> Undecided {
        self.run.unsupported("a condition that is not understood")
    }

    fn take(&mut self) -> Result<Option<Tok>, Undecided> {
        match self.ahead.take() {
            Some(token) => Ok(Some(token)),
            None => self.expander.next(self.run),
        }
    }

    fn text(&self, token: Tok) -> &'a [u8] {
        self.run.state.tables.names.get(token.sym)
    }

    /// The operator ahead.
    fn operator(&mut self) -> Result<&'a [u8], Undecided> {
        if self.ahead.is_none() {
            self.ahead = self.take()?;
        }
        let Some(token) = self.ahead else {
            return Ok(b"");
        };
        match token.kind {
            Kind::Punct => Ok(self.text(token)),
            Kind::Name if self.run.mode.cxx => Ok(alternative(self.text(token))),
            _ => Ok(b" "),
        }
    }

    fn expect(&mut self, operator: &[u8]) -> Result<(), Undecided> {
        if self.operator()? != operator {
            return Err(self.malformed());
        }
        self.ahead = None;
        Ok(())
    }

    fn conditional(&mut self, live: bool) -> Result<Value, Undecided> {
        self.enter()?;
        let mut value = self.binary(0, live)?;
        if self.operator()? == b"?" {
            self.ahead = None;
            let yes = self.comma(live && value.is_true())?;
            self.expect(b":")?;
            let no = self.conditional(live && !value.is_true())?;
            let unsigned = yes.unsigned || no.unsigned;
            value = Value { unsigned, ..if value.is_true() { yes } else { no } };
        }
        self.nested -= 1;
        Ok(value)
    }

    fn enter(&mut self) -> Result<(), Undecided> {
        self.nested += 1;
        if self.nested > NESTED_MAX {
            return Err(self.run.unsupported("a condition is nested too deeply"));
        }
        Ok(())
    }

    /// Within parentheses and between `?` and `:` a comma is allowed, if with a warning.
    fn comma(&mut self, live: bool) -> Result<Value, Undecided> {
        let mut value = self.conditional(live)?;
        while self.operator()? == b"," {
            self.ahead = None;
            value = self.conditional(live)?;
        }
        Ok(value)
    }

    /// Operators that bind at least as strongly as `least`.
    fn binary(&mut self, least: u8, live: bool) -> Result<Value, Undecided> {
        let mut left = self.unary(live)?;
        loop {
            let operator = self.operator()?;
            let Some(strength) = strength(operator).filter(|&strength| strength >= least) else {
                return Ok(left);
            };
            self.ahead = None;
            let needed = match operator {
                b"&&" => left.is_true(),
                b"||" => !left.is_true(),
                _ => true,
            };
            let right = self.binary(strength + 1, live && needed)?;
            left = match apply(operator, left, right, self.run.mode.clang) {
                Some(value) => value,
                // Division by zero, refused where it counts.
                None if live => return Err(self.malformed()),
                None => Value { bits: 0, unsigned: left.unsigned || right.unsigned },
            };
        }
    }

    fn unary(&mut self, live: bool) -> Result<Value, Undecided> {
        let operator = self.operator()?;
        if let b"!" | b"~" | b"-" | b"+" | b"(" = operator {
            self.ahead = None;
            self.enter()?;
            let value = match operator {
                b"(" => {
                    let value = self.comma(live)?;
                    self.expect(b")")?;
                    value
                }
                operator => {
                    let value = self.unary(live)?;
                    match operator {
                        b"!" => Value::of(!value.is_true()),
                        b"~" => Value { bits: !value.bits, ..value },
                        b"-" => Value { bits: value.bits.wrapping_neg(), ..value },
                        _ => value,
                    }
                }
            };
            self.nested -= 1;
            return Ok(value);
        }
        let Some(token) = self.take()? else {
            return Err(self.malformed());
        };
        match token.kind {
            Kind::Number => number(self.text(token)).ok_or_else(|| self.malformed()),
            Kind::Char => character(self.text(token), self.run.mode).ok_or_else(|| self.malformed()),
            Kind::Name if token.sym == self.run.state.tables.words.defined => self.defined(),
            Kind::Name => Ok(Value::of(self.run.is_true_word(self.text(token)))),
            _ => Err(self.malformed()),
        }
    }

    /// After `defined`.
    fn defined(&mut self) -> Result<Value, Undecided> {
        let words = self.run.state.tables.words;
        let mut name = self.expander.next_raw();
        let parenthesis = name.is_some_and(|token| token.sym == words.open);
        if parenthesis {
            name = self.expander.next_raw();
        }
        let Some(name) = name.filter(|token| token.kind == Kind::Name) else {
            return Err(self.malformed());
        };
        if parenthesis && self.expander.next_raw().is_none_or(|token| token.sym != words.close) {
            return Err(self.malformed());
        }
        Ok(Value::of(self.run.is_defined(name.sym)?))
    }
}

/// The operator that a word of C++ stands for.
fn alternative(word: &[u8]) -> &[u8] {
    match word {
        b"and" => b"&&",
        b"or" => b"||",
        b"not" => b"!",
        b"not_eq" => b"!=",
        b"bitand" => b"&",
        b"bitor" => b"|",
        b"xor" => b"^",
        b"compl" => b"~",
        _ => b" ",
    }
}

fn strength(operator: &[u8]) -> Option<u8> {
    Some(match operator {
        b"||" => 1,
        b"&&" => 2,
        b"|" => 3,
        b"^" => 4,
        b"&" => 5,
        b"==" | b"!=" => 6,
        b"<" | b">" | b"<=" | b">=" => 7,
        b"<<" | b">>" => 8,
        b"+" | b"-" => 9,
        b"*" | b"/" | b"%" => 10,
        _ => return None,
    })
}

/// `None` if it is undefined.
fn apply(operator: &[u8], left: Value, right: Value, clang: bool) -> Option<Value> {
    let unsigned = left.unsigned || right.unsigned;
    let (a, b) = (left.bits, right.bits);
    let (signed_a, signed_b) = (a as i64, b as i64);
    let less = if unsigned { a < b } else { signed_a < signed_b };
    let bits = match operator {
        b"||" => return Some(Value::of(a != 0 || b != 0)),
        b"&&" => return Some(Value::of(a != 0 && b != 0)),
        b"==" => return Some(Value::of(a == b)),
        b"!=" => return Some(Value::of(a != b)),
        b"<" => return Some(Value::of(less)),
        b">=" => return Some(Value::of(!less)),
        b">" => return Some(Value::of(a != b && !less)),
        b"<=" => return Some(Value::of(a == b || less)),
        b"<<" | b">>" => {
            return Some(Value { bits: shift(operator == b"<<", left, right, clang), ..left });
        }
        b"|" => a | b,
        b"^" => a ^ b,
        b"&" => a & b,
        b"+" => a.wrapping_add(b),
        b"-" => a.wrapping_sub(b),
        b"*" => a.wrapping_mul(b),
        b"/" if unsigned => a.checked_div(b)?,
        b"%" if unsigned => a.checked_rem(b)?,
        b"/" => (b != 0).then(|| signed_a.wrapping_div(signed_b))? as u64,
        b"%" => (b != 0).then(|| signed_a.wrapping_rem(signed_b))? as u64,
        _ => return None,
    };
    Some(Value { bits, unsigned })
}

/// Counts that the language leaves undefined are taken as each compiler takes them.
fn shift(to_the_left: bool, left: Value, right: Value, clang: bool) -> u64 {
    if clang { shift_in_clang(to_the_left, left, right) } else { shift_in_gcc(to_the_left, left, right) }
}

/// A negative count shifts the other way (libcpp's `num_lshift` and `num_rshift`).
fn shift_in_gcc(to_the_left: bool, left: Value, right: Value) -> u64 {
    let backward = !right.unsigned && (right.bits as i64) < 0;
    let count = if backward { (right.bits as i64).unsigned_abs() } else { right.bits };
    if to_the_left != backward {
        return if count < 64 { left.bits << count } else { 0 };
    }
    shift_right(left, count)
}

/// A count is a number without sign. To the left nothing remains over 63; to the right its low 32 bits count, over 63 as
/// 63 (`EvaluateDirectiveSubExpr`).
fn shift_in_clang(to_the_left: bool, left: Value, right: Value) -> u64 {
    let count = (right.bits & 0xffff_ffff).min(63);
    match to_the_left {
        true if right.bits < 64 => left.bits << right.bits,
        true => 0,
        false => shift_right(left, count),
    }
}

fn shift_right(left: Value, count: u64) -> u64 {
    match left.unsigned {
        true if count < 64 => left.bits >> count,
        true => 0,
        false => ((left.bits as i64) >> count.min(63)) as u64,
    }
}

/// An integer constant.
fn number(text: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(text).ok()?.replace('\'', "").to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = text.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = text.strip_prefix("0b") {
        (2, rest)
    } else if text.len() > 1 && text.starts_with('0') && text.as_bytes()[1].is_ascii_digit() {
        (8, &text[1..])
    } else {
        (10, text.as_str())
    };
    let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
    let bits = u64::from_str_radix(&digits[..end], radix).ok()?;
    let unsigned = match &digits[end..] {
        "" | "l" | "ll" | "z" | "wb" => false,
        "u" | "ul" | "ull" | "lu" | "llu" | "uz" | "zu" | "uwb" | "wbu" => true,
        _ => return None,
    };
    Some(Value { bits, unsigned: unsigned || bits > i64::MAX as u64 })
}

/// A character constant of the basic kind, of up to four characters, or a wide one of ASCII.
fn character(text: &[u8], mode: Mode) -> Option<Value> {
    let open = text.iter().position(|&byte| byte == b'\'')?;
    let (prefix, inside) = (&text[..open], text.get(open + 1..text.len().checked_sub(1)?)?);
    let mut bytes = Vec::new();
    let mut rest = inside;
    while !rest.is_empty() {
        let (byte, after) = one_character(rest)?;
        bytes.push(byte);
        rest = after;
    }
    match (prefix, bytes.as_slice()) {
        (b"", &[byte]) if mode.unsigned_char => Some(Value { bits: u64::from(byte), unsigned: false }),
        (b"", &[byte]) => Some(Value { bits: i64::from(byte as i8) as u64, unsigned: false }),
        (b"", bytes) if (2..=4).contains(&bytes.len()) => {
            let packed = bytes.iter().fold(0_u32, |packed, &byte| (packed << 8) | u32::from(byte));
            Some(Value { bits: i64::from(packed as i32) as u64, unsigned: false })
        }
        (b"L", &[byte @ ..0x80]) => Some(Value { bits: u64::from(byte), unsigned: mode.unsigned_wide }),
        // Whether `u8` makes it unsigned is another matter in every version of every compiler.
        (b"u" | b"U", &[byte @ ..0x80]) => Some(Value { bits: u64::from(byte), unsigned: true }),
        _ => None,
    }
}

fn one_character(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&first, rest) = text.split_first()?;
    if first != b'\\' {
        return Some((first, rest));
    }
    let (&escape, rest) = rest.split_first()?;
    let value = match escape {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'v' => 11,
        b'e' | b'E' => 27,
        b'\\' | b'\'' | b'"' | b'?' => escape,
        b'x' => return numeric(rest, 16, usize::MAX),
        b'0'..=b'7' => return numeric(&text[1..], 8, 3),
        _ => return None,
    };
    Some((value, rest))
}

fn numeric(text: &[u8], radix: u32, digits_max: usize) -> Option<(u8, &[u8])> {
    let digits = text.iter().take(digits_max).take_while(|&&byte| char::from(byte).is_digit(radix)).count();
    let value = u8::from_str_radix(std::str::from_utf8(&text[..digits]).ok()?, radix).ok()?;
    Some((value, &text[digits..]))
}
