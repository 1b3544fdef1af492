"""SQLAlchemy: the ORM's sessions, lazy loading, bulk writes and core selects, on psycopg 2."""

import datetime
import decimal

from sqlalchemy import (JSON, ForeignKey, Integer, Numeric, String, create_engine, exc, func, insert, select, text,
                        update)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from common import DIRECT_URL, FOREBAY_URL, REPEATS, RUNS, TWIN_URL, Tally, report

SCHEMA = "drv_sqlalchemy"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    __table_args__ = {"schema": SCHEMA}
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    born: Mapped[datetime.date | None]
    settings: Mapped[dict] = mapped_column(JSON, default=dict)
    books: Mapped[list["Book"]] = relationship(back_populates="author", order_by="Book.id", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    __table_args__ = {"schema": SCHEMA}
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(8, 2))
    pages: Mapped[int] = mapped_column(Integer, default=100)
    author_id: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.author.id", ondelete="CASCADE"))
    author: Mapped[Author] = relationship(back_populates="books")


def engine_for(url):
    # Pooled connections, as in an application: each checkout ends in a ROLLBACK.
    return create_engine(url.replace("postgres://", "postgresql+psycopg2://"), pool_size=2)


def reads(engine):
    """What pages of an application ask; each in a session of its own, as in a web request."""
    with Session(engine) as session:
        yield "get", session.get(Author, 3).name
        authors = session.scalars(select(Author).order_by(Author.id).limit(5)).all()
        # Lazy loading: one SELECT an author.
        yield "lazy", [(author.name, author.born, [book.title for book in author.books]) for author in authors]
    with Session(engine) as session:
        eager = session.scalars(select(Author).options(selectinload(Author.books)).order_by(Author.name)).all()
        yield "eager", [(author.id, author.settings, [(book.price, book.pages) for book in author.books]) for author in eager]
        yield "aggregate", session.execute(
            select(Author.name, func.count(Book.id), func.sum(Book.price), func.avg(Book.pages))
            .join(Book).group_by(Author.name).order_by(Author.name)).all()
        yield "filter", session.scalars(
            select(Book.title).where(Book.price > decimal.Decimal("12.5"), Book.title.ilike("%1%")).order_by(Book.id)).all()
        yield "exists", session.scalar(select(select(Book).where(Book.pages > 10_000).exists()))
        yield "none", session.scalars(select(Author).where(Author.name == "nobody")).one_or_none()
        yield "dates", session.scalars(
            select(Author.id).where(Author.born.between(datetime.date(1900, 1, 3), datetime.date(1900, 1, 9)))
            .order_by(Author.id)).all()
    with engine.connect() as connection:
        yield "core", connection.execute(text(f"SELECT id, title FROM {SCHEMA}.book WHERE pages >= :pages ORDER BY id"),
                                         {"pages": 105}).all()


def writes(engine):
    """Each step is a function, so that the reads can run between steps."""
    def orm_update():
        with Session(engine) as session, session.begin():
            author = session.get(Author, 3)
            author.name = "Renamed"
            author.books[0].price += 1
            author.books.append(Book(title="Added 1", price=99, pages=7))

    def bulk_update():
        with Session(engine) as session, session.begin():
            session.execute(update(Book).where(Book.pages < 103).values(price=Book.price * 2))

    def insert_many():
        with Session(engine) as session, session.begin():
            session.execute(insert(Book), [{"title": f"Bulk {n}", "price": n, "author_id": 5, "pages": n} for n in range(50)])

    def savepoint():
        with Session(engine) as session, session.begin():
            session.add(Author(id=100, name="Kept"))
            try:
                with session.begin_nested():
                    session.add(Author(id=101, name="Kept"))
                    session.flush()
            except exc.IntegrityError:
                pass
            session.get(Author, 4).settings = {"kept": True}

    def rollback():
        with Session(engine) as session:
            session.add(Author(id=102, name="Never"))
            session.flush()
            session.execute(update(Book).values(price=0))
            session.rollback()

    def cascade():
        with Session(engine) as session, session.begin():
            session.delete(session.get(Author, 2))

    return [orm_update, bulk_update, insert_many, savepoint, rollback, cascade]


def stream(engine):
    with Session(engine) as session:
        rows = session.execute(select(Book.id, Book.title).order_by(Book.id).execution_options(yield_per=7))
        return [len(part) for part in rows.partitions()]


def mistake(engine):
    try:
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO {SCHEMA}.author (id, name, settings) VALUES (1, 'again', '{{}}')"))
    except exc.IntegrityError as error:
        return [error.orig.pgcode, error.orig.diag.constraint_name]
    return "no error"


def fresh_tables(engine):
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        for number in range(1, 13):
            books = [Book(title=f"Book {number}.{n}", price=decimal.Decimal(n * number) / 4, pages=100 + n) for n in range(5)]
            session.add(Author(id=number, name=f"Author {number:02}", born=datetime.date(1900, 1, number),
                               settings={"n": number}, books=books))
            # One INSERT order on both sides: ids come from a sequence.
            session.flush()


def main():
    tally = Tally()
    ours, twin, now = engine_for(FOREBAY_URL), engine_for(TWIN_URL), engine_for(DIRECT_URL)

    def compare_reads(when):
        for _ in range(REPEATS):
            for (label, mine), (_, theirs), (_, direct) in zip(reads(ours), reads(twin), reads(now), strict=True):
                tally.same(f"{label} {when}", mine, theirs)
                tally.same(f"{label} {when}, now", mine, direct)

    for _ in range(RUNS):
        fresh_tables(ours)
        fresh_tables(twin)
        compare_reads("at first")
        for mine, theirs in zip(writes(ours), writes(twin), strict=True):
            mine()
            theirs()
            compare_reads(f"after {mine.__name__}")
        tally.same("stream", stream(ours), stream(twin))
        tally.same("mistake", mistake(ours), mistake(twin))
        compare_reads("at last")
    with ours.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))
    tally.finish()


report(main)
