"""Django with sqlcommenter: of its pages one repeats itself and one is slow, and the console tells
which, by name, after one request of each. Answers are compared with those of the twin.
"""

import csv
import io
import os
import subprocess
import sys
from urllib.parse import urlparse

import django
from django.conf import settings

from common import FOREBAY_URL, TWIN_URL, Tally, report

SCHEMA = "drv_routes"
APPLICATION = "django_routes"


def database(url):
    parts = urlparse(url)
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": parts.path.lstrip("/"), "USER": parts.username,
        "PASSWORD": parts.password, "HOST": parts.hostname, "PORT": parts.port, "CONN_MAX_AGE": 600,
        "DISABLE_SERVER_SIDE_CURSORS": True, "ATOMIC_REQUESTS": True,
        "OPTIONS": {"options": f"-c search_path={SCHEMA}", "application_name": APPLICATION},
    }


settings.configure(
    SECRET_KEY="only for this test", DEBUG=False, ALLOWED_HOSTS=["testserver"], ROOT_URLCONF=__name__, USE_TZ=True,
    DATABASES={"default": database(FOREBAY_URL), "twin": database(TWIN_URL)}, INSTALLED_APPS=["shop"],
    MIDDLEWARE=["google.cloud.sqlcommenter.django.middleware.SqlCommenter"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402
from shop.models import Order, Product  # noqa: E402


def orders_page(request, alias):
    """The product of each order by a query of its own."""
    return JsonResponse({"orders": [order.product.name for order in Order.objects.using(alias).order_by("id")]})


def report_page(request, alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM shop_order, pg_sleep(0.6)")
        return JsonResponse({"count": cursor.fetchone()})


def product_page(request, alias, key):
    return JsonResponse({"name": Product.objects.using(alias).get(id=key).name})


urlpatterns = [path("<alias>/orders", orders_page), path("<alias>/report", report_page),
               path("<alias>/product/<int:key>", product_page)]


def fresh_tables(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    call_command("migrate", "shop", database=alias, verbosity=0, interactive=False)
    for number in range(1, 13):
        product = Product.objects.using(alias).create(
            name=f"Product {number}", price=number, tags=[], made="2024-01-01T00:00:00Z")
        Order.objects.using(alias).create(product=product, quantity=number)


def routes(order):
    """SHOW ROUTES of this application, in this order; None without a console to ask."""
    if not os.environ.get("ADMIN_URL"):
        return None
    answer = subprocess.run(
        [os.environ.get("PSQL", "psql"), "--csv", "-X", os.environ["ADMIN_URL"], "-c", f"SHOW ROUTES ORDER BY {order}"],
        capture_output=True, text=True, check=True)
    return [row for row in csv.DictReader(io.StringIO(answer.stdout)) if row["application_name"] == APPLICATION]


def expect(row, **wanted):
    told = {name: row[name] for name in wanted}
    if told != wanted:
        sys.exit(f"SHOW ROUTES tells {row}, not {wanted}")


def main():
    tally = Tally()
    for alias in ("default", "twin"):
        fresh_tables(alias)
    client = Client()
    for page in ("product/3", "orders", "report"):
        answers = [client.get(f"/{alias}/{page}").content for alias in ("default", "twin")]
        tally.same(page, *answers)
    by_queries = routes("queries_per_request")
    if by_queries is not None:
        expect(by_queries[0], route="<alias>/orders", requests="1", queries="13")
        expect(routes("worst_time")[0], route="<alias>/report", requests="1", queries="1", slow="1")
        for _ in range(9):
            tally.same("product", client.get("/default/product/3").content, client.get("/twin/product/3").content)
        page = next(row for row in routes("requests") if row["route"] == "<alias>/product/<int:key>")
        expect(page, requests="10", queries="10", queries_per_request="1.0")
    with connections["default"].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    connections.close_all()
    tally.finish()


report(main)
