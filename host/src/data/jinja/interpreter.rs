//! Runs a template: statements, and what all of a rendering shares.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Body, ExpressionKind, Statement, StatementKind, Target};
use super::error::{Result, error};
use super::limits::{Budget, CALL_DEPTH, EVALUATION_DEPTH, TEXT_BYTES};
use super::strftime::Now;
use super::text::text_of;
use super::value::{Dict, Object, Scope, Value};

/// One rendering.
pub(super) struct Interpreter<'a> {
    pub(super) budget: &'a Budget,
    pub(super) now: Now,
    /// Text written so far: the output, and what blocks that capture it have of it.
    out: RefCell<Vec<String>>,
    /// The text of the block that a filter without an operand stands for.
    pub(super) blocks: RefCell<Vec<Value>>,
    depth: Cell<usize>,
    calls: Cell<usize>,
    /// What may refer to itself, emptied at the end so that it is freed.
    namespaces: RefCell<Vec<Rc<Object>>>,
    scopes: RefCell<Vec<Rc<Scope>>>,
}

/// How a statement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// Renders a compiled template with variables.
pub(super) fn render(
    body: &Body,
    messages: &[serde_json::Value],
    variables: &[(&str, &serde_json::Value)],
    now: Now,
) -> Result<String> {
    let budget = Budget::new();
    let interpreter = Interpreter {
        budget: &budget,
        now,
        out: RefCell::new(vec![String::new()]),
        blocks: RefCell::default(),
        depth: Cell::new(0),
        calls: Cell::new(0),
        namespaces: RefCell::default(),
        scopes: RefCell::default(),
    };
    let context = Rc::new(Scope::default());
    context.set(&"messages".into(), Value::from_json_list(messages, &budget)?);
    for (name, value) in variables {
        context.set(&Arc::from(*name), Value::from_json(value, &budget)?);
    }
    let root = Scope::within(&context);
    let result = interpreter.run(body, &root);
    interpreter.free();
    root.clear();
    result?;
    Ok(interpreter.out.into_inner().pop().unwrap_or_default())
}

impl Interpreter<'_> {
    /// Runs statements until one leaves the loop.
    pub(super) fn run(&self, body: &Body, scope: &Rc<Scope>) -> Result<Flow> {
        for statement in body {
            let flow = self.statement(statement, scope).map_err(|error| error.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>) -> Result<Flow> {
        match &statement.kind {
            StatementKind::Data(text) => self.write(text)?,
            StatementKind::Print(expression) => {
                let value = self.evaluate(expression, scope)?;
                self.write(&text_of(&value, self.budget)?)?;
            }
            StatementKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.evaluate(test, scope)?.is_true() {
                        return self.deeper(|| self.run(body, scope));
                    }
                }
                return self.deeper(|| self.run(otherwise, scope));
            }
            StatementKind::For(node) => {
                let over = self.evaluate(&node.over, scope)?;
                return self.deeper(|| self.for_loop(node, over, scope, 0));
            }
            StatementKind::Set(target, expression) => {
                let value = self.evaluate(expression, scope)?;
                self.assign(target, value, scope)?;
            }
            StatementKind::With(values, body) => {
                let inner = Scope::within(scope);
                let values = values.iter().map(|(target, value)| Ok((target, self.evaluate(value, scope)?)));
                for (target, value) in values.collect::<Result<Vec<_>>>()? {
                    self.assign(target, value, &inner)?;
                }
                return self.deeper(|| self.run(body, &inner));
            }
            StatementKind::Macro(definition) => {
                scope.set(&definition.name, self.macro_value(definition, scope)?);
            }
            StatementKind::Generation(body) => {
                return self.deeper(|| self.run(body, &Scope::within(scope)));
            }
            StatementKind::SetBlock(..) | StatementKind::FilterBlock(..) | StatementKind::CallBlock(..) => {
                return self.deeper(|| self.block(&statement.kind, scope));
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Blocks whose text is taken up.
    fn block(&self, kind: &StatementKind, scope: &Rc<Scope>) -> Result<Flow> {
        let mut flow = Flow::Next;
        let capture = |body: &Body, flow: &mut Flow| {
            self.captured(|| {
                *flow = self.run(body, &Scope::within(scope))?;
                Ok(())
            })
        };
        let filtered = |filter, text: String| {
            self.blocks.borrow_mut().push(Value::text(text));
            let result = self.evaluate(filter, scope);
            self.blocks.borrow_mut().pop();
            result
        };
        match kind {
            StatementKind::SetBlock(target, filter, body) => {
                let text = capture(body, &mut flow)?;
                if flow == Flow::Next {
                    let value = match filter {
                        Some(filter) => filtered(filter, text)?,
                        None => Value::text(text),
                    };
                    self.assign(target, value, scope)?;
                }
            }
            StatementKind::FilterBlock(filter, body) => {
                let text = capture(body, &mut flow)?;
                if flow == Flow::Next {
                    self.write(&text_of(&filtered(filter, text)?, self.budget)?)?;
                }
            }
            StatementKind::CallBlock(call, caller) => {
                let ExpressionKind::Call(callee, arguments) = &call.kind else { return Ok(flow) };
                let callee = self.evaluate(callee, scope)?;
                let mut args = self.arguments(arguments, scope)?;
                args.named.push(("caller".into(), self.macro_value(caller, scope)?));
                let value = self.call(&callee, args).map_err(|error| error.at(call.line))?;
                self.write(&text_of(&value, self.budget)?)?;
            }
            _ => {}
        }
        Ok(flow)
    }

    /// Assigns to a name, to a namespace's attribute or to the parts of a tuple.
    pub(super) fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(of, name) => match self.variable(of, scope)? {
                Value::Object(object) => match &*object {
                    Object::Namespace(attributes) => {
                        check_attribute(name)?;
                        attributes.borrow_mut().set(Value::text(name.clone()), value, self.budget)?;
                    }
                    _ => return Err(error(format!("`{of}` is not a namespace, so `{of}.{name}` cannot be set"))),
                },
                Value::Undefined(reason) => return Err(error(&*reason)),
                _ => return Err(error(format!("`{of}` is not a namespace, so `{of}.{name}` cannot be set"))),
            },
            Target::Tuple(targets) => {
                let items = self.collect(&value)?;
                if items.len() != targets.len() {
                    return Err(error(format!("{} items are assigned to {} names", items.len(), targets.len())));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    /// A namespace, which is emptied at the end of the rendering.
    pub(super) fn namespace(&self, attributes: Dict) -> Result<Value> {
        for (name, _) in attributes.entries() {
            if let Value::Text(name) = name {
                check_attribute(&name.text)?;
            }
        }
        let object = Rc::new(Object::Namespace(RefCell::new(attributes)));
        self.budget.items(4)?;
        self.namespaces.borrow_mut().push(object.clone());
        Ok(Value::Object(object))
    }

    /// Remembers a scope that a macro refers to.
    pub(super) fn keep_scope(&self, scope: &Rc<Scope>) {
        let mut scopes = self.scopes.borrow_mut();
        if !scopes.last().is_some_and(|last| Rc::ptr_eq(last, scope)) {
            scopes.push(scope.clone());
        }
    }

    fn free(&self) {
        for object in &*self.namespaces.borrow() {
            if let Object::Namespace(attributes) = &**object {
                attributes.borrow_mut().clear();
            }
        }
        for scope in &*self.scopes.borrow() {
            scope.clear();
        }
    }

    /// Writes text to the output or to the block that captures it.
    fn write(&self, text: &str) -> Result<()> {
        let mut out = self.out.borrow_mut();
        self.budget.read(text.len())?;
        if let Some(buffer) = out.last_mut() {
            if buffer.len() + text.len() > TEXT_BYTES {
                return Err(error(format!("it writes more than {TEXT_BYTES} bytes")));
            }
            buffer.push_str(text);
        }
        Ok(())
    }

    /// The text that `run` writes.
    pub(super) fn captured(&self, run: impl FnOnce() -> Result<()>) -> Result<String> {
        self.out.borrow_mut().push(String::new());
        let result = run();
        let text = self.out.borrow_mut().pop().unwrap_or_default();
        result?;
        self.budget.text(text.len())?;
        Ok(text)
    }

    /// Evaluates one level deeper.
    pub(super) fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let depth = self.depth.get();
        if depth >= EVALUATION_DEPTH {
            return Err(error(format!("its evaluation nests deeper than {EVALUATION_DEPTH} levels")));
        }
        self.depth.set(depth + 1);
        let result = run();
        self.depth.set(depth);
        result
    }

    /// Runs a macro or a recursive loop.
    pub(super) fn calling<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let calls = self.calls.get();
        if calls >= CALL_DEPTH {
            return Err(error(format!("macros or recursive loops call each other {CALL_DEPTH} levels deep")));
        }
        self.calls.set(calls + 1);
        let result = run();
        self.calls.set(calls);
        result
    }
}

fn check_attribute(name: &str) -> Result<()> {
    if name.starts_with('_') {
        return Err(error(format!("a namespace takes no attribute that begins with `_`, as `{name}` does; rename it")));
    }
    Ok(())
}
