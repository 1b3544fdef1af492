"""Django: migrations, the ORM, sessions kept in the database, logins, and views in transactions.

The project is this file, its settings, and the application `shop`. It runs against three database
aliases: through Forebay, the twin, and the database under test without Forebay.
"""

import datetime
import decimal
from urllib.parse import urlparse

import django
from django.conf import settings

from common import DIRECT_URL, FOREBAY_URL, REPEATS, RUNS, TWIN_URL, Tally, report

SCHEMA = "drv_django"
ALIASES = {"default": FOREBAY_URL, "twin": TWIN_URL, "now": DIRECT_URL}


def database(url):
    parts = urlparse(url)
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.path.lstrip("/"), "USER": parts.username,
        "PASSWORD": parts.password, "HOST": parts.hostname, "PORT": parts.port,
        # Kept between requests, as behind a pooler; no server-side cursors outside transactions,
        # as Django asks for behind transaction pooling.
        "CONN_MAX_AGE": 600, "DISABLE_SERVER_SIDE_CURSORS": True, "ATOMIC_REQUESTS": True,
        "OPTIONS": {"options": f"-c search_path={SCHEMA}"},
    }


class Router:
    """All aliases hold every table; which one is asked is said by the workload."""

    current = "default"

    def db_for_read(self, model, **hints):
        return Router.current

    def db_for_write(self, model, **hints):
        return Router.current

    def allow_relation(self, first, second, **hints):
        return True


settings.configure(
    SECRET_KEY="only for this test", DEBUG=False, ALLOWED_HOSTS=["testserver"], ROOT_URLCONF="shop.views", USE_TZ=True,
    DATABASES={alias: database(url) for alias, url in ALIASES.items()}, DATABASE_ROUTERS=[f"{__name__}.Router"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.db", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.auth.models import Group, Permission  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connections, models, transaction  # noqa: E402
from django.test import Client  # noqa: E402
from shop.models import Order, Product  # noqa: E402


def on(alias, function, *arguments):
    """Runs function with every query going to that alias."""
    Router.current = alias
    try:
        return function(*arguments)
    finally:
        Router.current = "default"


def reads():
    User = get_user_model()
    yield "all", list(Product.objects.order_by("id").values_list())
    yield "get", Product.objects.get(name="Product 3").price
    yield "related", [(order.product.name, order.quantity) for order in Order.objects.select_related("product").order_by("id")]
    yield "prefetched", [(product.name, [order.note for order in sorted(product.orders.all(), key=lambda o: o.id)])
                         for product in Product.objects.prefetch_related("orders").order_by("id")]
    yield "lazy", [order.product.price for order in Order.objects.order_by("id")[:5]]
    yield "aggregate", Order.objects.aggregate(models.Sum("quantity"), models.Avg("quantity"), models.Max("id"))
    yield "annotate", list(Product.objects.annotate(sold=models.Sum("orders__quantity")).order_by("id").values_list("name", "sold"))
    yield "filter", list(Product.objects.filter(price__gte=decimal.Decimal("2.5"), active=True, made__lt=datetime.datetime(
        2024, 1, 9, tzinfo=datetime.timezone.utc)).order_by("id").values_list("id", flat=True))
    yield "json", list(Product.objects.filter(tags__contains=["t3"]).values_list("name", flat=True))
    yield "exists", Product.objects.filter(name="Product 99").exists()
    yield "subquery", Product.objects.exclude(id__in=Order.objects.values("product_id")).count()
    yield "user", [user.username for user in User.objects.filter(groups__name="sellers").order_by("id")]
    yield "permissions", sorted(User.objects.get(username="anna").get_all_permissions())


def writes():
    def update_some():
        Product.objects.filter(id__lte=3).update(price=models.F("price") + 1)

    def save_one():
        product = Product.objects.get(name="Product 4")
        product.tags.append("new")
        product.save()
        Product.objects.update_or_create(name="Product 5", defaults={"active": False})

    def bulk():
        Order.objects.bulk_create([Order(product_id=6, quantity=number, note="bulk") for number in range(40)])
        Order.objects.bulk_update([Order(id=1, quantity=70), Order(id=2, quantity=80)], ["quantity"])

    def savepoint():
        with transaction.atomic(using=Router.current):
            Order.objects.create(product_id=7, quantity=700)
            try:
                with transaction.atomic(using=Router.current):
                    Product.objects.create(name="Product 1", price=1, made=datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc))
            except IntegrityError:
                Order.objects.create(product_id=8, quantity=800)

    def undone():
        try:
            with transaction.atomic(using=Router.current):
                Product.objects.select_for_update().get(id=1).delete()
                raise ValueError
        except ValueError:
            pass

    def cascade():
        Product.objects.get(id=2).delete()

    def grant():
        get_user_model().objects.get(username="anna").user_permissions.add(Permission.objects.get(codename="delete_order"))

    return [update_some, save_one, bulk, savepoint, undone, cascade, grant]


def browse():
    """Two visitors log in, look at pages, order, fail once, log out."""
    pages = []
    clients = [Client(), Client()]
    for client, name in zip(clients, ["anna", "bert"]):
        pages.append(client.login(username=name, password=f"{name}-secret"))
    for turn in range(REPEATS):
        for client in clients:
            for url in ("/list", "/product/3", "/product/4", "/list", f"/order/3?quantity={turn}", "/product/3",
                        "/order/4?quantity=1&fail=1", "/product/4"):
                answer = client.get(url)
                pages.append((url, answer.status_code, answer.content))
    clients[0].logout()
    pages.append(clients[0].get("/list").content)
    return pages


def fresh_tables():
    alias = Router.current
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    ContentType.objects.clear_cache()
    call_command("migrate", database=alias, verbosity=0, interactive=False)
    for number in range(1, 11):
        product = Product.objects.create(
            name=f"Product {number}", price=decimal.Decimal(number) / 2, tags=[f"t{number}", number],
            made=datetime.datetime(2024, 1, number, 12, tzinfo=datetime.timezone.utc))
        Order.objects.create(product=product, quantity=number, note=None if number % 3 else "note")
    sellers = Group.objects.create(name="sellers")
    sellers.permissions.add(Permission.objects.get(codename="add_order"))
    for name in ("anna", "bert"):
        get_user_model().objects.create_user(name, password=f"{name}-secret").groups.add(sellers)


def backwards_and_forwards():
    call_command("migrate", "shop", "0001", database=Router.current, verbosity=0, interactive=False)
    call_command("migrate", "shop", database=Router.current, verbosity=0, interactive=False)


def main():
    tally = Tally()

    def both(function):
        return on("default", function), on("twin", function)

    def compare_reads(when):
        for _ in range(REPEATS):
            answers = [on(alias, lambda: list(reads())) for alias in ALIASES]
            for (label, mine), (_, theirs), (_, now) in zip(*answers, strict=True):
                tally.same(f"{label} {when}", mine, theirs)
                tally.same(f"{label} {when}, now", mine, now)

    for _ in range(RUNS):
        both(fresh_tables)
        compare_reads("at first")
        for mine, theirs in zip(writes(), writes(), strict=True):
            on("default", mine)
            on("twin", theirs)
            compare_reads(f"after {mine.__name__}")
        mine, theirs = both(browse)
        for page, other in zip(mine, theirs, strict=True):
            tally.same("page", page, other)
        compare_reads("after browsing")
        both(backwards_and_forwards)
        compare_reads("after migrating back and forth")
    with connections["default"].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    connections.close_all()
    tally.finish()


report(main)
