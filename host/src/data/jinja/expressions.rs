//! The half of the parser that reads expressions. Each function is one level of precedence, the loosest first.

use std::sync::Arc;

use super::ast::{Arguments, Comparison, Constant, Expression, ExpressionKind, Operator, Target};
use super::error::{Result, error};
use super::filters::is_filter;
use super::lexer::Kind;
use super::limits::{ARGUMENTS, CHAIN_LENGTH};
use super::parser::Parser;
use super::tests::is_test;

impl Parser {
    fn node(line: u32, below: usize, kind: ExpressionKind) -> Result<Expression> {
        if below >= CHAIN_LENGTH {
            return Err(error(format!("more than {CHAIN_LENGTH} operations follow one another")).at(line));
        }
        Ok(Expression { line, depth: below + 1, kind })
    }

    fn leaf(line: u32, constant: Constant) -> Expression {
        Expression { line, depth: 1, kind: ExpressionKind::Constant(constant) }
    }

    /// `a, b` or `a`. `ends` are names that end it.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expression> {
        let line = self.line();
        let parse = if conditional { Self::expression } else { Self::or };
        let items = self.comma_separated(ends, |parser| parser.nested(parse))?;
        match items {
            Commas::One(item) => Ok(item),
            Commas::Many(items) => Self::node(line, depth(&items), ExpressionKind::Tuple(items)),
            Commas::Nothing => self.fail("expected an expression"),
        }
    }

    fn comma_separated<T>(&mut self, ends: &[&str], parse: impl Fn(&mut Self) -> Result<T>) -> Result<Commas<T>> {
        let mut items = Vec::new();
        let mut has_comma = false;
        loop {
            let is_end = match self.kind() {
                Kind::VariableEnd | Kind::BlockEnd | Kind::Operator(")") => true,
                Kind::Name(name) => ends.contains(&name.as_str()),
                _ => false,
            };
            if is_end {
                break;
            }
            items.push(parse(self)?);
            if !self.skip_operator(",") {
                break;
            }
            has_comma = true;
        }
        Ok(match items.pop() {
            None => Commas::Nothing,
            Some(item) if !has_comma => Commas::One(item),
            Some(item) => {
                items.push(item);
                Commas::Many(items)
            }
        })
    }

    /// What is assigned to. `ends` are names that end it.
    pub(super) fn target(&mut self, ends: &[&str], with_attributes: bool) -> Result<Target> {
        let items = self.comma_separated(ends, |parser| parser.one_target(with_attributes))?;
        match items {
            Commas::One(target) => Ok(target),
            Commas::Many(targets) => Ok(Target::Tuple(targets)),
            Commas::Nothing => self.fail("expected a name to assign to"),
        }
    }

    fn one_target(&mut self, with_attributes: bool) -> Result<Target> {
        if self.skip_operator("(") {
            let target = self.nested(|parser| parser.target(&[], false))?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        if let Kind::Name(name) = self.kind()
            && matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None" | "loop")
            && !(name == "loop" && with_attributes)
        {
            return self.fail("expected a name to assign to");
        }
        let name = self.expect_name()?;
        if with_attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.expect_name()?));
        }
        Ok(Target::Name(name))
    }

    /// An expression, conditional expressions among them.
    pub(super) fn expression(&mut self) -> Result<Expression> {
        let mut line = self.line();
        let known = self.unknown.len();
        let mut then = self.nested(Self::or)?;
        while self.skip_name("if") {
            // What stands before `if` is reached only where the test holds.
            self.unknown.truncate(known);
            let before = std::mem::replace(&mut self.is_conditional, true);
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(Box::new(self.nested(Self::expression)?)) } else { None };
            self.is_conditional = before;
            let below = then.depth.max(test.depth).max(otherwise.as_ref().map_or(0, |other| other.depth));
            then = Self::node(line, below, ExpressionKind::If(Box::new(test), Box::new(then), otherwise))?;
            line = self.line();
        }
        Ok(then)
    }

    pub(super) fn or(&mut self) -> Result<Expression> {
        self.logical("or", Self::and, ExpressionKind::Or)
    }

    fn and(&mut self) -> Result<Expression> {
        self.logical("and", Self::not, ExpressionKind::And)
    }

    fn logical(
        &mut self,
        word: &str,
        parse: fn(&mut Self) -> Result<Expression>,
        kind: fn(Vec<Expression>) -> ExpressionKind,
    ) -> Result<Expression> {
        let line = self.line();
        let first = parse(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name(word) {
            operands.push(parse(self)?);
        }
        Self::node(line, depth(&operands), kind(operands))
    }

    fn not(&mut self) -> Result<Expression> {
        if !self.is_name("not") {
            return self.compare();
        }
        let line = self.line();
        self.next();
        let of = self.nested(Self::not)?;
        Self::node(line, of.depth, ExpressionKind::Not(Box::new(of)))
    }

    fn compare(&mut self) -> Result<Expression> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessOrEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterOrEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && *self.look() == Kind::Name("in".into()) => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        let below = others.iter().fold(first.depth, |most, (_, other)| most.max(other.depth));
        Self::node(line, below, ExpressionKind::Compare(Box::new(first), others))
    }

    fn binary(
        &mut self,
        operators: &[(&str, Operator)],
        parse: fn(&mut Self) -> Result<Expression>,
    ) -> Result<Expression> {
        let mut line = self.line();
        let mut left = parse(self)?;
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is_operator(text)) {
            self.next();
            let right = parse(self)?;
            let below = left.depth.max(right.depth);
            left = Self::node(line, below, ExpressionKind::Binary(*operator, Box::new(left), Box::new(right)))?;
            line = self.line();
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expression> {
        self.binary(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expression> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_operator("~") {
            operands.push(self.product()?);
        }
        Self::node(line, depth(&operands), ExpressionKind::Concat(operands))
    }

    fn product(&mut self) -> Result<Expression> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expression> {
        self.binary(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expression> {
        let line = self.line();
        let mut node = match self.kind() {
            Kind::Operator("-") => {
                self.next();
                let of = self.nested(|parser| parser.unary(false))?;
                Self::node(line, of.depth, ExpressionKind::Negative(Box::new(of)))?
            }
            Kind::Operator("+") => {
                self.next();
                let of = self.nested(|parser| parser.unary(false))?;
                Self::node(line, of.depth, ExpressionKind::Positive(Box::new(of)))?
            }
            _ => self.primary()?,
        };
        node = self.postfix(node)?;
        if !with_filter {
            return Ok(node);
        }
        loop {
            match self.kind() {
                Kind::Operator("|") => {
                    self.next();
                    node = self.filter(Some(node))?;
                }
                Kind::Operator("(") => node = self.call(node)?,
                Kind::Name(name) if name == "is" => node = self.test(node)?,
                _ => return Ok(node),
            }
        }
    }

    fn primary(&mut self) -> Result<Expression> {
        let line = self.line();
        match self.kind().clone() {
            Kind::Name(name) => {
                self.next();
                match name.as_str() {
                    "caller" => self.reads.caller = true,
                    "kwargs" => self.reads.kwargs = true,
                    "varargs" => self.reads.varargs = true,
                    _ => {}
                }
                Ok(match name.as_str() {
                    "true" | "True" => Self::leaf(line, Constant::Bool(true)),
                    "false" | "False" => Self::leaf(line, Constant::Bool(false)),
                    "none" | "None" => Self::leaf(line, Constant::None),
                    _ => Expression { line, depth: 1, kind: ExpressionKind::Name(name.into()) },
                })
            }
            Kind::Text(mut text) => {
                self.next();
                while let Kind::Text(more) = self.kind() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Self::leaf(line, Constant::Text(text.into())))
            }
            Kind::Integer(number) => {
                self.next();
                Ok(Self::leaf(line, Constant::Integer(number)))
            }
            Kind::Float(number) => {
                self.next();
                Ok(Self::leaf(line, Constant::Float(number)))
            }
            Kind::Operator("(") => {
                self.next();
                let items = self.comma_separated(&[], |parser| parser.nested(Self::expression))?;
                self.expect_operator(")")?;
                match items {
                    Commas::One(item) => Ok(item),
                    Commas::Many(items) => Self::node(line, depth(&items), ExpressionKind::Tuple(items)),
                    Commas::Nothing => Self::node(line, 0, ExpressionKind::Tuple(Vec::new())),
                }
            }
            Kind::Operator("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_operator("]") {
                    items.push(self.nested(Self::expression)?);
                    if !self.is_operator("]") {
                        self.expect_operator(",")?;
                    }
                }
                self.next();
                Self::node(line, depth(&items), ExpressionKind::List(items))
            }
            Kind::Operator("{") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_operator("}") {
                    let key = self.nested(Self::expression)?;
                    self.expect_operator(":")?;
                    items.push((key, self.nested(Self::expression)?));
                    if !self.is_operator("}") {
                        self.expect_operator(",")?;
                    }
                }
                self.next();
                let below = items.iter().map(|(key, value)| key.depth.max(value.depth)).max().unwrap_or(0);
                Self::node(line, below, ExpressionKind::Dict(items))
            }
            _ => self.fail("expected an expression"),
        }
    }

    fn postfix(&mut self, mut node: Expression) -> Result<Expression> {
        loop {
            let line = self.line();
            match self.kind() {
                Kind::Operator(".") => {
                    self.next();
                    let below = node.depth;
                    let kind = match self.next() {
                        Kind::Name(name) => ExpressionKind::Attribute(Box::new(node), name.into()),
                        Kind::Integer(number) => {
                            let key = Self::leaf(line, Constant::Integer(number));
                            ExpressionKind::Item(Box::new(node), Box::new(key))
                        }
                        _ => return Err(error("expected a name or a number behind `.`").at(line)),
                    };
                    node = Self::node(line, below, kind)?;
                }
                Kind::Operator("[") => node = self.subscript(node)?,
                Kind::Operator("(") => node = self.call(node)?,
                _ => return Ok(node),
            }
        }
    }

    fn subscript(&mut self, of: Expression) -> Result<Expression> {
        let line = self.line();
        self.next();
        let mut parts = [None, None, None];
        let mut colons = 0;
        while !self.is_operator("]") {
            if self.is_operator(":") && colons < 2 {
                self.next();
                colons += 1;
            } else if parts[colons].is_none() {
                parts[colons] = Some(self.nested(Self::expression)?);
                if !self.is_operator(":") && !self.is_operator("]") {
                    return self.fail("expected `]`");
                }
            } else {
                return self.fail("expected `]`");
            }
        }
        self.next();
        let below = parts.iter().flatten().fold(of.depth, |most, part| most.max(part.depth));
        let kind = match (colons, parts) {
            (0, [Some(key), _, _]) => ExpressionKind::Item(Box::new(of), Box::new(key)),
            (0, _) => return Err(error("expected an expression in `[]`").at(line)),
            (_, parts) => ExpressionKind::Slice(Box::new(of), Box::new(parts)),
        };
        Self::node(line, below, kind)
    }

    fn call(&mut self, of: Expression) -> Result<Expression> {
        let line = self.line();
        let (arguments, below) = self.arguments()?;
        let below = below.max(of.depth);
        Self::node(line, below, ExpressionKind::Call(Box::new(of), arguments))
    }

    /// Arguments in parentheses, and how deep they are.
    fn arguments(&mut self) -> Result<(Arguments, usize)> {
        let line = self.line();
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut below = 0;
        while !self.is_operator(")") {
            let invalid = || Err(error("these arguments do not go together").at(line));
            let value;
            if self.skip_operator("*") {
                if arguments.list.is_some() || arguments.dict.is_some() {
                    return invalid();
                }
                value = self.nested(Self::expression)?;
                below = below.max(value.depth);
                arguments.list = Some(Box::new(value));
            } else if self.skip_operator("**") {
                if arguments.dict.is_some() {
                    return invalid();
                }
                value = self.nested(Self::expression)?;
                below = below.max(value.depth);
                arguments.dict = Some(Box::new(value));
            } else if matches!(self.kind(), Kind::Name(_)) && *self.look() == Kind::Operator("=") {
                if arguments.dict.is_some() {
                    return invalid();
                }
                let name = self.expect_name()?;
                self.next();
                value = self.nested(Self::expression)?;
                if arguments.named.iter().any(|(other, _)| *other == name) {
                    return Err(error(format!("the argument `{name}` is there twice")).at(line));
                }
                below = below.max(value.depth);
                arguments.named.push((name, value));
            } else {
                if arguments.list.is_some() || arguments.dict.is_some() || !arguments.named.is_empty() {
                    return invalid();
                }
                value = self.nested(Self::expression)?;
                below = below.max(value.depth);
                arguments.positional.push(value);
            }
            if arguments.positional.len() + arguments.named.len() > ARGUMENTS {
                return Err(error(format!("a call has more than {ARGUMENTS} arguments")).at(line));
            }
            if !self.is_operator(")") {
                self.expect_operator(",")?;
            }
        }
        self.next();
        Ok((arguments, below))
    }

    fn dotted(&mut self) -> Result<Arc<str>> {
        let mut name = self.expect_name()?;
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?).into();
        }
        Ok(name)
    }

    /// One filter, behind its `|`.
    pub(super) fn filter(&mut self, of: Option<Expression>) -> Result<Expression> {
        let line = self.line();
        let name = self.dotted()?;
        if !self.is_conditional && !is_filter(&name) {
            self.unknown.push(error(format!("no filter has the name `{name}`")).at(line));
        }
        let (arguments, below) = if self.is_operator("(") { self.arguments()? } else { (Arguments::default(), 0) };
        let below = below.max(of.as_ref().map_or(0, |of| of.depth));
        Self::node(line, below, ExpressionKind::Filter(of.map(Box::new), name, arguments))
    }

    /// The filters that follow one.
    pub(super) fn filters(&mut self, mut of: Expression) -> Result<Expression> {
        while self.skip_operator("|") {
            of = self.filter(Some(of))?;
        }
        Ok(of)
    }

    fn test(&mut self, of: Expression) -> Result<Expression> {
        let line = self.line();
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        if !self.is_conditional && !is_test(&name) {
            self.unknown.push(error(format!("no test has the name `{name}`")).at(line));
        }
        let (arguments, below) = match self.kind() {
            Kind::Operator("(") => self.arguments()?,
            Kind::Name(next) if matches!(next.as_str(), "else" | "or" | "and") => (Arguments::default(), 0),
            Kind::Name(next) if next == "is" => return self.fail("tests with `is` cannot follow one another"),
            Kind::Name(_) | Kind::Text(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Operator("[" | "{") => {
                let argument = self.nested(|parser| {
                    let argument = parser.primary()?;
                    parser.postfix(argument)
                })?;
                let below = argument.depth;
                (Arguments { positional: vec![argument], ..Arguments::default() }, below)
            }
            _ => (Arguments::default(), 0),
        };
        let below = below.max(of.depth);
        let test = Self::node(line, below, ExpressionKind::Test(Box::new(of), name, arguments))?;
        if negated {
            let below = test.depth;
            return Self::node(line, below, ExpressionKind::Not(Box::new(test)));
        }
        Ok(test)
    }
}

/// What stands between commas.
enum Commas<T> {
    Nothing,
    One(T),
    Many(Vec<T>),
}

fn depth(expressions: &[Expression]) -> usize {
    expressions.iter().map(|expression| expression.depth).max().unwrap_or(0)
}
