//! The signature of a statement: what PostgreSQL fixes of it when it parses it, and does not let
//! change for as long as the statement lives.

use crate::wire::{Malformed, Reader, backend, frame};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Types of its parameters, four bytes each, as Parse declares them.
    pub parameters: Box<[u8]>,
    /// Name, type and type modifier of every column; `None`: it gives no rows.
    columns: Option<Box<[u8]>>,
}

impl Signature {
    /// From the whole messages that answer Describe of a statement: `ParameterDescription`, then
    /// `RowDescription` or `NoData`.
    pub fn read(messages: &[u8]) -> Result<Self, Malformed> {
        let (parameters, rest) = split(messages, backend::PARAMETER_DESCRIPTION)?;
        let mut reader = Reader::new(parameters);
        let count = reader.count()?;
        let parameters = reader.bytes(count * 4)?.into();
        if rest == backend::NO_DATA_MESSAGE {
            return Ok(Self { parameters, columns: None });
        }
        let (body, _) = split(rest, backend::ROW_DESCRIPTION)?;
        Ok(Self { parameters, columns: Some(columns(body)?) })
    }

    /// From the `RowDescription` of a portal, which a client was told without its statement having
    /// been described. Parameters are known as far as they were declared.
    pub fn of_portal(types: &[u8], row_description: &[u8]) -> Result<Self, Malformed> {
        let (body, _) = split(row_description, backend::ROW_DESCRIPTION)?;
        Ok(Self { parameters: types.into(), columns: Some(columns(body)?) })
    }

    /// Whether PostgreSQL would let a statement of the other signature become this one. It does not
    /// compare where columns come from, and tables made anew change nothing.
    pub fn same_result(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}

fn columns(body: &[u8]) -> Result<Box<[u8]>, Malformed> {
    let mut reader = Reader::new(body);
    let mut columns = Vec::with_capacity(body.len());
    for _ in 0..reader.count()? {
        columns.extend_from_slice(reader.cstr()?);
        columns.push(0);
        let _table_and_number = reader.bytes(6)?;
        columns.extend_from_slice(reader.bytes(4)?);
        let _type_len = reader.bytes(2)?;
        columns.extend_from_slice(reader.bytes(4)?);
        let _format = reader.bytes(2)?;
    }
    if reader.is_empty() { Ok(columns.into()) } else { Err(Malformed) }
}

/// The body of the first message, which is to have this tag, and what follows it.
fn split(messages: &[u8], tag: u8) -> Result<(&[u8], &[u8]), Malformed> {
    let whole = frame::split(messages, messages.len()).ok().flatten();
    let (header, body) = whole.filter(|(header, _)| header.tag == tag).ok_or(Malformed)?;
    Ok((body, messages.get(header.total..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frontend::write;

    struct Column(&'static str, u32, u32, i32);

    fn answer(parameters: &[u32], columns: Option<&[Column]>) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, backend::PARAMETER_DESCRIPTION, |body| {
            body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
            body.extend(parameters.iter().flat_map(|oid| oid.to_be_bytes()));
        });
        let Some(columns) = columns else { return [out, backend::NO_DATA_MESSAGE.into()].concat() };
        write(&mut out, backend::ROW_DESCRIPTION, |body| {
            body.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
            for Column(name, table, type_oid, modifier) in columns {
                body.extend([name.as_bytes(), b"\0", &table.to_be_bytes(), &[0, 1]].concat());
                body.extend(
                    [&type_oid.to_be_bytes()[..], &[0, 4], &modifier.to_be_bytes()].concat(),
                );
                body.extend([0, 0]);
            }
        });
        out
    }

    fn read(columns: Option<&[Column]>) -> Signature {
        Signature::read(&answer(&[23, 25], columns)).unwrap()
    }

    #[test]
    fn parameters_are_as_parse_declares_them() {
        assert_eq!(*read(None).parameters, [0, 0, 0, 23, 0, 0, 0, 25]);
    }

    #[test]
    fn names_types_and_modifiers_are_the_result_and_tables_are_not() {
        let one = read(Some(&[Column("a", 1000, 1043, 14)]));
        let check = |columns: Option<&[Column]>, same: bool| {
            assert_eq!(one.same_result(&read(columns)), same);
        };
        check(Some(&[Column("a", 2000, 1043, 14)]), true);
        check(Some(&[Column("b", 1000, 1043, 14)]), false);
        check(Some(&[Column("a", 1000, 25, 14)]), false);
        check(Some(&[Column("a", 1000, 1043, 15)]), false);
        check(Some(&[Column("a", 1000, 1043, 14), Column("b", 1000, 23, -1)]), false);
        check(Some(&[]), false);
        check(None, false);
        assert!(!read(Some(&[])).same_result(&read(None)));
    }

    #[test]
    fn a_portal_has_the_result_of_its_statement() {
        let whole = answer(&[], Some(&[Column("a", 1000, 23, -1)]));
        let portal = Signature::of_portal(&[0; 4], &whole[7..]).unwrap();
        assert!(portal.same_result(&Signature::read(&whole).unwrap()));
        assert_eq!(*portal.parameters, [0; 4]);
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let whole = answer(&[23], Some(&[Column("a", 1000, 23, -1), Column("b", 1000, 25, -1)]));
        assert!(Signature::read(&whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(Signature::read(&whole[..end]), Err(Malformed), "prefix of {end}");
        }
    }
}
