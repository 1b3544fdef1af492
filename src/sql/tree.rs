//! The text in which PostgreSQL stores a parsed expression or query (`pg_node_tree`), read into a
//! tree of labels and fields. Knows no meaning of either; what does not read as expected is no tree.

/// Deeper texts are refused: recursion below is as deep as the tree.
const DEPTH_MAX: usize = 250;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a name, `<>` for nothing; escapes left in place.
    Atom(&'a str),
    Node(Node<'a>),
    List(Vec<Self>),
    /// The bytes of a constant.
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// In capitals: `FUNCEXPR`.
    pub label: &'a str,
    /// Names without their colon, in order.
    pub fields: Vec<(&'a str, Value<'a>)>,
}

impl Node<'_> {
    pub fn field(&self, name: &str) -> Option<&Value<'_>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        match self.field(name) {
            Some(Value::Atom(atom)) => atom.parse().ok(),
            Some(Value::Node(_) | Value::List(_) | Value::Bytes(_)) | None => None,
        }
    }

    /// A boolean field that is set, or a list or node that is there.
    pub fn has(&self, name: &str) -> bool {
        match self.field(name) {
            Some(Value::Atom(atom)) => !matches!(*atom, "false" | "<>"),
            Some(Value::Node(_) | Value::List(_) | Value::Bytes(_)) => true,
            None => false,
        }
    }
}

/// `None`: not such a text, or too deep.
pub fn read(text: &str) -> Option<Value<'_>> {
    let mut reader = Reader { rest: text };
    let first = reader.token()?;
    let value = reader.value(first, 0)?;
    reader.token().is_none().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Brackets stand alone; other tokens end at a blank or bracket that no backslash precedes.
    fn token(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_ascii_start();
        let first = *rest.as_bytes().first()?;
        let mut end = 1;
        if !is_bracket(first) {
            let bytes = rest.as_bytes();
            end = 0;
            while let Some(byte) = bytes.get(end) {
                match byte {
                    b'\\' => end += 2,
                    byte if is_bracket(*byte) || byte.is_ascii_whitespace() => break,
                    _ => end += 1,
                }
            }
        }
        let (token, rest) = rest.split_at_checked(end)?;
        self.rest = rest;
        Some(token)
    }

    fn value(&mut self, token: &'a str, depth: usize) -> Option<Value<'a>> {
        if depth > DEPTH_MAX {
            return None;
        }
        match token {
            "{" => self.node(depth).map(Value::Node),
            "(" => {
                let mut items = Vec::new();
                loop {
                    match self.token()? {
                        ")" => return Some(Value::List(items)),
                        token => items.push(self.value(token, depth + 1)?),
                    }
                }
            }
            "}" | ")" => None,
            atom => Some(Value::Atom(atom)),
        }
    }

    fn node(&mut self, depth: usize) -> Option<Node<'a>> {
        let label = self.token()?;
        let mut fields = Vec::new();
        loop {
            let token = self.token()?;
            if token == "}" {
                return Some(Node { label, fields });
            }
            let name = token.strip_prefix(':')?;
            let token = self.token()?;
            let value = self.value(token, depth + 1)?;
            // A constant is its length and then its bytes.
            let is_constant = self.rest.trim_ascii_start().starts_with('[');
            fields.push((name, if is_constant { self.bytes()? } else { value }));
        }
    }

    /// Bytes are printed as signed numbers.
    fn bytes(&mut self) -> Option<Value<'a>> {
        self.token()?.eq("[").then_some(())?;
        let mut bytes = Vec::new();
        loop {
            match self.token()? {
                "]" => return Some(Value::Bytes(bytes)),
                token => {
                    let number: i16 = token.parse().ok()?;
                    bytes.push(u8::try_from(number & 0xFF).ok()?);
                }
            }
        }
    }
}

fn is_bracket(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'(' | b')')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "({OPEXPR :opno 98 :args ({VAR :varattno 2} {CONST :consttype 25 \
                        :constvalue 5 [ 20 0 0 0 -17 ]}) :name a\\ \\{b :none <> :flag true})";

    #[test]
    fn nodes_lists_and_constants_are_read() {
        let Some(Value::List(list)) = read(TEXT) else { panic!("not a list") };
        let [Value::Node(node)] = list.as_slice() else { panic!("not a node") };
        assert_eq!(node.label, "OPEXPR");
        assert_eq!(node.number("opno"), Some(98));
        assert_eq!(node.field("name"), Some(&Value::Atom("a\\ \\{b")));
        assert_eq!((node.has("none"), node.has("flag"), node.has("args")), (false, true, true));
        let Some(Value::List(args)) = node.field("args") else { panic!("no arguments") };
        let [_, Value::Node(constant)] = args.as_slice() else { panic!("no constant") };
        assert_eq!(constant.field("constvalue"), Some(&Value::Bytes(vec![20, 0, 0, 0, 239])));
    }

    #[test]
    fn no_prefix_of_a_tree_is_a_tree() {
        for end in 0..TEXT.len() {
            let prefix = TEXT.get(..end).expect("plain letters");
            assert_eq!(read(prefix), None, "{end}");
        }
        assert_eq!(read(&format!("{TEXT} x")), None);
        assert_eq!(read("{A b}"), None);
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let nested = |depth| format!("{}{}", "(".repeat(depth), ")".repeat(depth));
        assert!(read(&nested(DEPTH_MAX)).is_some());
        assert_eq!(read(&nested(DEPTH_MAX + 2)), None);
    }
}
