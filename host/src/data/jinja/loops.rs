//! `{% for %}` and its variable `loop`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::For;
use super::error::{Result, error};
use super::interpreter::{Flow, Interpreter};
use super::iterate::iterate;
use super::limits::ITERATION_STEPS;
use super::value::{Args, Cursor, Loop, Object, Peeked, Scope, Value};

impl Interpreter<'_> {
    /// Runs a loop over a value.
    pub(super) fn for_loop(&self, node: &Arc<For>, over: Value, scope: &Rc<Scope>, depth0: i128) -> Result<Flow> {
        let mut cursor = iterate(&over)?;
        if node.test.is_some() {
            cursor = Cursor::Tested { from: Box::new(cursor), node: node.clone(), scope: scope.clone() };
        }
        let object = Rc::new(Object::Loop(RefCell::new(Loop {
            depth: over.depth().saturating_add(1),
            over,
            cursor,
            is_tested: node.test.is_some(),
            length: None,
            index0: -1,
            after: Peeked::Unknown,
            current: None,
            before: None,
            changed: None,
            depth0,
            recursion: node.recursive.then(|| (node.clone(), scope.clone())),
        })));
        let name: Arc<str> = "loop".into();
        // As in Jinja2, `else` runs unless the body came to its end once.
        let mut has_run = false;
        while let Some(item) = self.next_of_loop(&object)? {
            self.budget.work(ITERATION_STEPS)?;
            let inner = Scope::within(scope);
            inner.set(&name, Value::Object(object.clone()));
            self.assign(&node.target, item, &inner)?;
            match self.run(&node.body, &inner)? {
                Flow::Next => has_run = true,
                Flow::Break => break,
                Flow::Continue => {}
            }
        }
        if let Object::Loop(state) = &*object {
            // It may hold the loop itself.
            state.borrow_mut().changed = None;
        }
        if has_run { Ok(Flow::Next) } else { self.run(&node.otherwise, &Scope::within(scope)) }
    }

    /// Goes on to the next item of a loop.
    pub(super) fn next_of_loop(&self, object: &Rc<Object>) -> Result<Option<Value>> {
        let Object::Loop(cell) = &**object else { return Ok(None) };
        let peeked = std::mem::take(&mut cell.borrow_mut().after);
        let item = match peeked {
            Peeked::Item(item) => Some(item),
            Peeked::None => None,
            Peeked::Unknown => self.take_of_loop(cell)?,
        };
        let mut state = cell.borrow_mut();
        if item.is_some() {
            state.index0 += 1;
            state.before = state.current.take();
            state.current.clone_from(&item);
        }
        Ok(item)
    }

    /// An item out of the loop's cursor. The loop is free meanwhile: a test may look at it.
    fn take_of_loop(&self, cell: &RefCell<Loop>) -> Result<Option<Value>> {
        let mut cursor = std::mem::replace(&mut cell.borrow_mut().cursor, Cursor::Done);
        let item = self.advance(&mut cursor);
        cell.borrow_mut().cursor = cursor;
        item
    }

    fn peek(&self, cell: &RefCell<Loop>) -> Result<Option<Value>> {
        match &cell.borrow().after {
            Peeked::Item(item) => return Ok(Some(item.clone())),
            Peeked::None => return Ok(None),
            Peeked::Unknown => {}
        }
        let item = self.take_of_loop(cell)?;
        cell.borrow_mut().after = item.clone().map_or(Peeked::None, Peeked::Item);
        Ok(item)
    }

    fn length_of_loop(&self, cell: &RefCell<Loop>) -> Result<i128> {
        let known = {
            let state = cell.borrow();
            state.length.or_else(|| if state.is_tested { None } else { state.over.len() })
        };
        let length = match known {
            Some(length) => length,
            None => {
                let mut cursor = std::mem::replace(&mut cell.borrow_mut().cursor, Cursor::Done);
                let rest = self.rest(&mut cursor)?;
                let mut state = cell.borrow_mut();
                let peeked = usize::from(matches!(state.after, Peeked::Item(_)));
                let length = rest.len() + (state.index0 + 1) as usize + peeked;
                state.cursor = Cursor::Made(rest.into_iter());
                length
            }
        };
        cell.borrow_mut().length = Some(length);
        Ok(length as i128)
    }

    /// `loop.name`
    pub(super) fn loop_attribute(&self, object: &Rc<Object>, name: &Arc<str>) -> Result<Option<Value>> {
        let Object::Loop(cell) = &**object else { return Ok(None) };
        let index0 = cell.borrow().index0;
        Ok(Some(match &**name {
            "index" => Value::Integer(index0 + 1),
            "index0" => Value::Integer(index0),
            "length" => Value::Integer(self.length_of_loop(cell)?),
            "revindex" => Value::Integer(self.length_of_loop(cell)? - index0),
            "revindex0" => Value::Integer(self.length_of_loop(cell)? - index0 - 1),
            "first" => Value::Bool(index0 == 0),
            "last" => Value::Bool(self.peek(cell)?.is_none()),
            "depth" => Value::Integer(cell.borrow().depth0 + 1),
            "depth0" => Value::Integer(cell.borrow().depth0),
            "previtem" => match &cell.borrow().before {
                Some(item) if index0 > 0 => item.clone(),
                _ => Value::undefined("there is no previous item"),
            },
            "nextitem" => self.peek(cell)?.unwrap_or_else(|| Value::undefined("there is no next item")),
            "cycle" | "changed" => Value::method(&Value::Object(object.clone()), name)?,
            _ => return Ok(None),
        }))
    }

    /// `loop.cycle(…)` and `loop.changed(…)`
    pub(super) fn loop_method(&self, object: &Rc<Object>, name: &str, args: Args) -> Result<Value> {
        let Object::Loop(cell) = &**object else { return Ok(Value::None) };
        if !args.named.is_empty() {
            return Err(error(format!("`loop.{name}` takes no named arguments")));
        }
        let values = args.positional;
        if name == "cycle" {
            if values.is_empty() {
                return Err(error("`loop.cycle` takes at least one value"));
            }
            let index = cell.borrow().index0.rem_euclid(values.len() as i128) as usize;
            return Ok(values[index].clone());
        }
        let before = cell.borrow_mut().changed.take();
        let same = match &before {
            Some(before) if before.len() == values.len() => {
                let mut same = true;
                for (one, other) in before.iter().zip(&values) {
                    same = same && super::operators::equal(one, other, self.budget)?;
                }
                same
            }
            _ => false,
        };
        cell.borrow_mut().changed = Some(values);
        Ok(Value::Bool(!same))
    }

    /// `loop(items)` of a recursive loop: what the loop writes for other items.
    pub(super) fn recurse(&self, object: &Rc<Object>, args: Args) -> Result<Value> {
        let Object::Loop(cell) = &**object else { return Ok(Value::None) };
        let [over] = args.bind("loop", ["iterable"], 1)?;
        let (recursion, depth0) = {
            let state = cell.borrow();
            (state.recursion.clone(), state.depth0 + 1)
        };
        let Some((node, scope)) = recursion else {
            return Err(error("`loop(…)` is called, but its loop is not marked `recursive`"));
        };
        let over = over.unwrap_or(Value::None);
        let text = self.calling(|| self.captured(|| self.for_loop(&node, over, &scope, depth0).map(|_| ())))?;
        Ok(Value::text(text))
    }
}
