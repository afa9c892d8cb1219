//! Python's operators on values.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Comparison, Operator};
use super::error::{Error, Result, error};
use super::limits::{Budget, VALUE_DEPTH};
use super::markup::join_texts;
use super::percent;
use super::value::{Key, Object, Value, View};

/// `left operator right`.
pub(super) fn binary(operator: Operator, left: &Value, right: &Value, budget: &Budget) -> Result<Value> {
    for operand in [left, right] {
        if let Value::Undefined(reason) = operand {
            // `"%s" % x` and `list * x` meet what is not there in ways of their own; all of them are errors but one.
            if !(operator == Operator::Modulo && left.as_text().is_some()) {
                return Err(error(&**reason));
            }
        }
    }
    match operator {
        Operator::Add => add(left, right, budget),
        Operator::Multiply => multiply(left, right, budget),
        Operator::Modulo => match left {
            Value::Text(text) => percent::format(text, right, budget),
            _ => numbers(operator, left, right),
        },
        _ => numbers(operator, left, right),
    }
}

fn unfit(symbol: &str, left: &Value, right: &Value) -> Error {
    error(format!("`{symbol}` does not take values of types `{}` and `{}`", left.type_name(), right.type_name()))
}

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    }
}

fn add(left: &Value, right: &Value, budget: &Budget) -> Result<Value> {
    match (left, right) {
        (Value::Text(one), Value::Text(other)) => join_texts([one, other], budget),
        (Value::List(one), Value::List(other)) => {
            budget.items(one.items.len() + other.items.len())?;
            Value::list(one.items.iter().chain(&other.items).cloned().collect())
        }
        (Value::Tuple(one), Value::Tuple(other)) => {
            budget.items(one.items.len() + other.items.len())?;
            Value::tuple(one.items.iter().chain(&other.items).cloned().collect())
        }
        (Value::Text(_), other) | (other, Value::Text(_)) if other.as_float().is_some() => Err(error(format!(
            "`+` does not take values of types `{}` and `{}`; `~` joins them as text",
            left.type_name(),
            right.type_name()
        ))),
        _ => numbers(Operator::Add, left, right),
    }
}

fn multiply(left: &Value, right: &Value, budget: &Budget) -> Result<Value> {
    let (value, times) = match (left, right) {
        (Value::Text(_) | Value::List(_) | Value::Tuple(_), times) => (left, times),
        (times, Value::Text(_) | Value::List(_) | Value::Tuple(_)) => (right, times),
        _ => return numbers(Operator::Multiply, left, right),
    };
    let times = times.as_integer().ok_or_else(|| unfit("*", left, right))?;
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let repeat = |items: &[Value]| {
        budget.items(items.len().saturating_mul(times))?;
        let mut out = Vec::with_capacity(items.len() * times);
        for _ in 0..if items.is_empty() { 0 } else { times } {
            out.extend_from_slice(items);
        }
        Ok::<_, Error>(out)
    };
    match value {
        Value::Text(text) => {
            budget.text(text.text.len().saturating_mul(times))?;
            let repeated = if text.text.is_empty() { String::new() } else { text.text.repeat(times) };
            Ok(if text.is_markup { Value::markup(repeated) } else { Value::text(repeated) })
        }
        Value::List(items) => Value::list(repeat(&items.items)?),
        Value::Tuple(items) => Value::tuple(repeat(&items.items)?),
        _ => Err(unfit("*", left, right)),
    }
}

fn numbers(operator: Operator, left: &Value, right: &Value) -> Result<Value> {
    let symbol = symbol(operator);
    if let (Some(one), Some(other)) = (left.as_integer(), right.as_integer()) {
        let too_large = || error(format!("`{one} {symbol} {other}` is larger than 128 bits"));
        if other == 0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
            return Err(error(format!("`{one} {symbol} 0` divides by zero")));
        }
        let result = match operator {
            Operator::Add => one.checked_add(other),
            Operator::Subtract => one.checked_sub(other),
            Operator::Multiply => one.checked_mul(other),
            Operator::Divide => return Ok(Value::Float(one as f64 / other as f64)),
            Operator::FloorDivide => one.checked_div_euclid(other).map(|_| floor_divide(one, other)),
            Operator::Modulo => one
                .checked_rem(other)
                .map(|rest| if rest != 0 && (rest < 0) != (other < 0) { rest + other } else { rest }),
            Operator::Power if other < 0 => {
                return if one == 0 {
                    Err(error(format!("`0 ** {other}` divides by zero")))
                } else {
                    Ok(Value::Float((one as f64).powf(other as f64)))
                };
            }
            Operator::Power => match (one, u32::try_from(other)) {
                (0 | 1, _) => Some(if other == 0 { 1 } else { one }),
                (-1, _) => Some(if other % 2 == 0 { 1 } else { -1 }),
                (_, Ok(power)) => one.checked_pow(power),
                (_, Err(_)) => None,
            },
        };
        return result.map(Value::Integer).ok_or_else(too_large);
    }
    let (Some(one), Some(other)) = (left.as_float(), right.as_float()) else {
        return Err(unfit(symbol, left, right));
    };
    if other == 0.0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
        return Err(error(format!("`{symbol}` divides by zero")));
    }
    Ok(Value::Float(match operator {
        Operator::Add => one + other,
        Operator::Subtract => one - other,
        Operator::Multiply => one * other,
        Operator::Divide => one / other,
        Operator::FloorDivide => float_divide(one, other).0,
        Operator::Modulo => float_divide(one, other).1,
        Operator::Power if one == 0.0 && other < 0.0 => return Err(error("`0.0 ** -1` divides by zero")),
        Operator::Power if one < 0.0 && other.fract() != 0.0 => {
            return Err(error("a root of a negative number is a complex number, which templates cannot use"));
        }
        Operator::Power => {
            let power = one.powf(other);
            if power.is_infinite() && one.is_finite() && other.is_finite() {
                return Err(error("the result of `**` is too large"));
            }
            power
        }
    }))
}

fn floor_divide(one: i128, other: i128) -> i128 {
    let quotient = one / other;
    if one % other != 0 && (one < 0) != (other < 0) { quotient - 1 } else { quotient }
}

/// Python's `divmod` of floats.
fn float_divide(one: f64, other: f64) -> (f64, f64) {
    let mut rest = one % other;
    let mut quotient = (one - rest) / other;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(other);
    } else if (rest < 0.0) != (other < 0.0) {
        rest += other;
        quotient -= 1.0;
    }
    let floored = if quotient == 0.0 {
        0.0_f64.copysign(one / other)
    } else if quotient - quotient.floor() > 0.5 {
        quotient.floor() + 1.0
    } else {
        quotient.floor()
    };
    (floored, rest)
}

/// `-value`.
pub(super) fn negative(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(-number)),
        other => match other.as_integer().map(i128::checked_neg) {
            Some(Some(number)) => Ok(Value::Integer(number)),
            Some(None) => Err(error("a number is larger than 128 bits")),
            None => Err(other.unfit("`-` takes a number")),
        },
    }
}

/// `+value`.
pub(super) fn positive(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(*number)),
        other => other.as_integer().map(Value::Integer).ok_or_else(|| other.unfit("`+` takes a number")),
    }
}

/// `left ~ right`, of any number of values. Without autoescape, HTML joins as other text does.
pub(super) fn concat(values: &[Value], budget: &Budget) -> Result<Value> {
    let mut out = String::new();
    for value in values {
        let text = super::text::text_of(value, budget)?;
        budget.fits(out.len() + text.len())?;
        out.push_str(&text);
    }
    budget.text(out.len())?;
    Ok(Value::text(out))
}

/// `left comparison right`.
pub(super) fn compare(comparison: Comparison, left: &Value, right: &Value, budget: &Budget) -> Result<bool> {
    let order = |symbol: &str| {
        for operand in [left, right] {
            if let Value::Undefined(reason) = operand {
                return Err(error(&**reason));
            }
        }
        if is_nan(left) || is_nan(right) {
            return Ok(None);
        }
        match order(left, right, budget) {
            Ok(order) => Ok(Some(order)),
            Err(error) if error.reason == INCOMPARABLE => Err(unfit(symbol, left, right)),
            Err(error) => Err(error),
        }
    };
    Ok(match comparison {
        Comparison::Equal => equal(left, right, budget)?,
        Comparison::NotEqual => !equal(left, right, budget)?,
        Comparison::Less => order("<")? == Some(Ordering::Less),
        Comparison::LessOrEqual => order("<=")?.is_some_and(Ordering::is_le),
        Comparison::Greater => order(">")? == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order(">=")?.is_some_and(Ordering::is_ge),
        Comparison::In => contains(right, left, budget)?,
        Comparison::NotIn => !contains(right, left, budget)?,
    })
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(value) if value.is_nan())
}

/// `left == right`.
pub(super) fn equal(left: &Value, right: &Value, budget: &Budget) -> Result<bool> {
    equal_within(left, right, budget, 0)
}

fn equal_within(left: &Value, right: &Value, budget: &Budget, depth: u16) -> Result<bool> {
    budget.work(1)?;
    if depth > VALUE_DEPTH {
        return Err(error("it compares values that nest too deeply"));
    }
    let all = |one: &[Value], other: &[Value]| {
        if one.len() != other.len() {
            return Ok(false);
        }
        for (one, other) in one.iter().zip(other) {
            if !equal_within(one, other, budget, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if let (Some(one), Some(other)) = (left.as_integer(), right.as_integer()) {
        return Ok(one == other);
    }
    if let (Some(one), Some(other)) = (left.as_float(), right.as_float()) {
        return Ok(one.partial_cmp(&other) == Some(Ordering::Equal));
    }
    match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => Ok(true),
        (Value::Text(one), Value::Text(other)) => {
            if one.text.len() == other.text.len() {
                budget.read(one.text.len())?;
            }
            Ok(one.text == other.text)
        }
        (Value::List(one), Value::List(other)) | (Value::Tuple(one), Value::Tuple(other)) => {
            all(&one.items, &other.items)
        }
        (Value::Dict(one), Value::Dict(other)) => {
            if one.len() != other.len() {
                return Ok(false);
            }
            for (key, value) in one.entries() {
                match other.get(key, budget)? {
                    Some(other) if equal_within(value, other, budget, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Object(one), Value::Object(other)) => match (&**one, &**other) {
            (Object::Range(one), Object::Range(other)) => {
                let len = one.len();
                Ok(len == other.len() && (len == 0 || one.start == other.start && (len == 1 || one.step == other.step)))
            }
            (Object::View(View::Keys, one), Object::View(View::Keys, other)) => {
                let mut same = one.len() == other.len();
                for (key, _) in one.entries() {
                    same = same && other.get(key, budget)?.is_some();
                }
                Ok(same)
            }
            (Object::Function(one), Object::Function(other)) => Ok(one == other),
            _ => Ok(Rc::ptr_eq(one, other)),
        },
        _ => Ok(false),
    }
}

const INCOMPARABLE: &str = "values of these types have no order";

/// How two values are ordered; an error for types that Python does not order.
pub(super) fn order(left: &Value, right: &Value, budget: &Budget) -> Result<Ordering> {
    order_within(left, right, budget, 0)
}

fn order_within(left: &Value, right: &Value, budget: &Budget, depth: u16) -> Result<Ordering> {
    budget.work(1)?;
    if let (Some(one), Some(other)) = (left.as_integer(), right.as_integer()) {
        return Ok(one.cmp(&other));
    }
    if let (Some(one), Some(other)) = (left.as_float(), right.as_float()) {
        return Ok(one.partial_cmp(&other).unwrap_or(Ordering::Equal));
    }
    match (left, right) {
        (Value::Undefined(reason), _) | (_, Value::Undefined(reason)) => Err(error(&**reason)),
        (Value::Text(one), Value::Text(other)) => {
            budget.read(one.text.len().min(other.text.len()))?;
            Ok(one.text.cmp(&other.text))
        }
        (Value::List(one), Value::List(other)) | (Value::Tuple(one), Value::Tuple(other)) => {
            for (one, other) in one.items.iter().zip(&other.items) {
                if !equal_within(one, other, budget, depth + 1)? {
                    return order_within(one, other, budget, depth + 1);
                }
            }
            Ok(one.items.len().cmp(&other.items.len()))
        }
        _ => Err(error(INCOMPARABLE)),
    }
}

/// `item in container`. Iterators are read by the caller.
pub(super) fn contains(container: &Value, item: &Value, budget: &Budget) -> Result<bool> {
    match container {
        Value::Undefined(_) => Ok(false),
        Value::Text(text) => {
            let wanted = item.as_text().ok_or_else(|| item.unfit("`in` a text takes a text"))?;
            budget.read(text.text.len())?;
            Ok(text.text.contains(&**wanted))
        }
        Value::List(items) | Value::Tuple(items) => {
            for other in &items.items {
                if equal(other, item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(dict) => Ok(dict.get(item, budget)?.is_some()),
        Value::Object(object) => match &**object {
            Object::Range(range) => {
                let number = match item {
                    Value::Float(number) if number.fract() == 0.0 => Some(*number as i128),
                    other => other.as_integer(),
                };
                Ok(number.is_some_and(|number| {
                    let index = (number - range.start) / range.step;
                    (0..range.len()).contains(&index) && range.get(index) == number
                }))
            }
            Object::View(View::Keys, dict) => Ok(dict.get(item, budget)?.is_some()),
            Object::View(View::Values, dict) => {
                for (_, other) in dict.entries() {
                    if equal(other, item, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Object::View(View::Items, dict) => match item {
                Value::Tuple(pair) if pair.items.len() == 2 => match dict.get(&pair.items[0], budget)? {
                    Some(value) => equal(value, &pair.items[1], budget),
                    None => Ok(false),
                },
                _ => Ok(false),
            },
            _ => Err(container.unfit("`in` takes a text, a list or a dictionary")),
        },
        other => Err(other.unfit("`in` takes a text, a list or a dictionary")),
    }
}

/// `of[key]`, without what attributes add; nothing where Python raises an error.
pub(super) fn item(of: &Value, key: &Value, budget: &Budget) -> Result<Option<Value>> {
    let at = |len: usize| -> Option<usize> {
        let index = key.as_integer()?;
        let index = if index < 0 { index.checked_add(len as i128)? } else { index };
        usize::try_from(index).ok().filter(|index| *index < len)
    };
    Ok(match of {
        Value::Undefined(reason) => return Err(error(&**reason)),
        Value::List(items) | Value::Tuple(items) => at(items.items.len()).map(|index| items.items[index].clone()),
        Value::Text(text) => {
            if key.as_integer().is_none() {
                return Ok(None);
            }
            let found = if text.text.is_ascii() {
                at(text.text.len()).and_then(|index| text.text.get(index..=index))
            } else {
                budget.read(text.text.len() * 4)?;
                at(text.text.chars().count()).and_then(|index| {
                    let (start, character) = text.text.char_indices().nth(index)?;
                    text.text.get(start..start + character.len_utf8())
                })
            };
            found.map(Value::text)
        }
        Value::Dict(dict) => match Key::of(key, budget) {
            Ok(key) => dict.get_key(&key).cloned(),
            Err(_) => None,
        },
        Value::Object(object) => match &**object {
            Object::Range(range) => at(range.len() as usize).map(|index| Value::Integer(range.get(index as i128))),
            _ => None,
        },
        _ => None,
    })
}

/// Where a slice starts, by what it steps, and how many items it has, of something with `len` items.
pub(super) fn slice_places(len: usize, [start, stop, step]: [Option<&Value>; 3]) -> Result<(i128, i128, usize)> {
    let number = |value: Option<&Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => value
            .as_integer()
            .map(|number| Some(number.clamp(i128::from(i64::MIN), i128::from(i64::MAX))))
            .ok_or_else(|| value.unfit("a slice takes integers")),
    };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    if step == 0 {
        return Err(error("the step of a slice is 0"));
    }
    let len = len as i128;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |number: Option<i128>, default: i128| match number {
        None => default,
        Some(number) => (if number < 0 { number + len } else { number }).clamp(low, high),
    };
    let (start, stop) =
        if step > 0 { (place(start, 0), place(stop, len)) } else { (place(start, len - 1), place(stop, -1)) };
    let distance = if step > 0 { stop - start } else { start - stop };
    let count = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
    Ok((start, step, count as usize))
}

/// `of[start:stop:step]`.
pub(super) fn slice(of: &Value, bounds: [Option<&Value>; 3], budget: &Budget) -> Result<Value> {
    let sliced = |items: &[Value]| {
        let (start, step, count) = slice_places(items.len(), bounds)?;
        budget.items(count)?;
        Ok::<_, Error>((0..count).map(|index| items[(start + index as i128 * step) as usize].clone()).collect())
    };
    match of {
        Value::Text(text) => {
            let ascii = text.text.is_ascii();
            let len = if ascii { text.text.len() } else { text.text.chars().count() };
            let (start, step, count) = slice_places(len, bounds)?;
            budget.read(text.text.len())?;
            budget.text(count * 4)?;
            let out: String = if step == 1 && ascii {
                text.text[start as usize..start as usize + count].to_owned()
            } else if step == 1 {
                text.text.chars().skip(start as usize).take(count).collect()
            } else {
                let characters: Vec<char> = text.text.chars().collect();
                (0..count).map(|index| characters[(start + index as i128 * step) as usize]).collect()
            };
            Ok(if text.is_markup { Value::markup(out) } else { Value::text(out) })
        }
        Value::List(items) => Value::list(sliced(&items.items)?),
        Value::Tuple(items) => Value::tuple(sliced(&items.items)?),
        Value::Object(object) if matches!(**object, Object::Range(_)) => {
            let Object::Range(range) = **object else { return Ok(Value::None) };
            let (start, step, count) = slice_places(range.len() as usize, bounds)?;
            let start = range.start + start * range.step;
            let step = step.checked_mul(range.step).ok_or_else(|| error("the step of a slice is too large"))?;
            let stop = start + count as i128 * step;
            Ok(Value::object(Object::Range(super::value::Range { start, stop, step })))
        }
        Value::Undefined(reason) => Err(error(&**reason)),
        other => Err(other.unfit("a slice takes a text or a list")),
    }
}
