//! Reading a document of one's own in the way that services are read: by known fields alone, and with file, line, column
//! and field of all that is wrong.

use std::{path, sync::Arc};

use crate::{
    context::{Context, Path},
    errors::{Errors, Problem, Report},
    load, picture, read,
    yaml::{self, Node, Value, is_null},
};

/// Reads a YAML file that says something else than services: an embedder's own configuration.
///
/// `read` is given the document, and returns nothing where something is wrong, which it has reported then. The same parts
/// of YAML are refused as in services.
///
/// ```
/// let port = |root: &control_static::Field<'_>, reader: &mut control_static::Reader<'_>| {
///     let [port] = root.fields(&["port"], "a mapping with `port`", reader)?;
///     let Some(port) = port else { return root.missing("port", "write `port: 80`", reader) };
///     match port.number().and_then(|number| u16::try_from(number).ok()) {
///         Some(port) => Some(port),
///         None => port.refuse("a port: a number from 0 to 65535", reader),
///     }
/// };
/// # let folder = std::env::temp_dir().join(format!("forebay-reader-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let file = folder.join("my.yaml");
/// std::fs::write(&file, "prot: 80\n")?;
/// let errors = control_static::read_file(&file, port).unwrap_err().to_string();
/// assert!(errors.contains("my.yaml:1:1: prot: unknown field `prot`: did you mean `port`?"), "{errors}");
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// [`Errors`] has all that was found in one pass, or that the file can't be read.
pub fn read_file<T>(
    file: impl AsRef<path::Path>,
    read: impl FnOnce(&Field<'_>, &mut Reader<'_>) -> Option<T>,
) -> Result<T, Errors> {
    let file: Arc<path::Path> = Arc::from(file.as_ref());
    let bytes =
        load::read_file(&file, crate::MAX_BYTES).map_err(|problem| load::whole_file(&file, problem))?;
    let mut report = Report::default();
    let mut reader = Reader { context: Context { file: &file, report: &mut report } };
    let value = picture::text(&bytes, &mut reader.context).and_then(|text| {
        let node = yaml::read(text, &mut reader.context)?;
        read(&Field { node: &node, path: Path::ROOT }, &mut reader)
    });
    let value = report.finish(value)?;
    // Nothing was read, and nothing said: the least that can be said then.
    value.ok_or_else(|| load::whole_file(&file, Problem::Empty))
}

/// Notes what is wrong with a document while it is read.
#[derive(Debug)]
pub struct Reader<'c> {
    context: Context<'c>,
}

/// A value of a document: what it is, where it stands, and which field.
#[derive(Clone, Copy, Debug)]
pub struct Field<'d> {
    node: &'d Node<'d>,
    path: Path<'d>,
}

impl<'d> Field<'d> {
    /// The values of a mapping's fields, in the order of `names`; unknown and doubled fields are reported. Nothing where
    /// it is no mapping: then it is reported that `expected` belongs here.
    pub fn fields<'s, const N: usize>(
        &'s self,
        names: &'static [&'static str; N],
        expected: &'static str,
        reader: &mut Reader<'_>,
    ) -> Option<[Option<Field<'s>>; N]> {
        let found = read::fields(self.node, self.path, names, expected, &mut reader.context)?;
        let mut fields = [None; N];
        for ((field, node), name) in fields.iter_mut().zip(found).zip(names) {
            *field = node.map(|node| Field { node, path: self.path.field(name) });
        }
        Some(fields)
    }

    /// The items of a list. Nothing where it is none: then it is reported that `expected` belongs here.
    pub fn items<'s>(&'s self, expected: &'static str, reader: &mut Reader<'_>) -> Option<Vec<Field<'s>>> {
        let Value::List(items) = &self.node.value else {
            return self.refuse(expected, reader);
        };
        Some(items.iter().enumerate().map(|(i, node)| Field { node, path: self.path.item(i) }).collect())
    }

    /// Whether it is a mapping, and no scalar and no list.
    pub fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    /// The text of a scalar, whatever it looks like; nothing of a list, of a mapping, and where nothing stands.
    pub fn text(&self) -> Option<&'d str> {
        match &self.node.value {
            Value::Scalar { text, plain } if !(*plain && is_null(text)) => Some(text),
            _ => None,
        }
    }

    /// A decimal number without quotes, sign or leading zero.
    pub fn number(&self) -> Option<u32> {
        read::number(self.node)
    }

    /// The value of the name that stands here; where it is none of `names`, it is reported that `expected` belongs here.
    pub fn one_of<T: Copy>(
        &self,
        names: &[(&str, T)],
        expected: &'static str,
        reader: &mut Reader<'_>,
    ) -> Option<T> {
        read::one_of(self.node, self.path, names, expected, &mut reader.context)
    }

    /// Reports that `expected` belongs here, and what stands here instead.
    pub fn refuse<T>(&self, expected: &'static str, reader: &mut Reader<'_>) -> Option<T> {
        read::unexpected(self.node, self.path, expected, &mut reader.context)
    }

    /// Reports that a field of this mapping is missing, and what to write.
    pub fn missing<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        reader: &mut Reader<'_>,
    ) -> Option<T> {
        reader.context.refuse(self.node.at, self.path, Problem::MissingField { name, expected })
    }

    /// Reports that this is a second time what may stand but once, and where it stands first.
    pub fn again<T>(&self, what: String, first: &Field<'_>, reader: &mut Reader<'_>) -> Option<T> {
        let first = reader.context.place(first.node.at);
        reader.context.refuse(self.node.at, self.path, Problem::Duplicate { what, first, hint: "" })
    }
}
