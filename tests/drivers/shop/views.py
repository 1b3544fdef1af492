"""Pages; each runs in a transaction of its own (ATOMIC_REQUESTS)."""

from django.db import router, transaction
from django.http import HttpResponseServerError, JsonResponse
from django.urls import path

from .models import Order, Product


def product_page(request, key):
    """Session, user, permissions, a product with its orders."""
    product = Product.objects.get(pk=key)
    request.session["seen"] = request.session.get("seen", 0) + 1
    return JsonResponse({
        "user": request.user.username, "seen": request.session["seen"],
        "may": sorted(request.user.get_all_permissions()), "product": [product.name, str(product.price)],
        "orders": list(product.orders.order_by("id").values_list("quantity", "note"))})


def list_page(request):
    return JsonResponse({"user": request.user.username, "products": list(
        Product.objects.filter(active=True).order_by("id").values("id", "name", "price", "tags"))})


def order_page(request, key):
    """Writes in the request's transaction; a failure undoes all of it."""
    Order.objects.create(product_id=key, quantity=int(request.GET["quantity"]))
    count = Order.objects.filter(product_id=key).count()
    if "fail" in request.GET:
        # The test client would raise an exception again; Django undoes alike in both cases.
        transaction.set_rollback(True, using=router.db_for_write(Order))
        return HttpResponseServerError(f"undone at {count}")
    return JsonResponse({"count": count})


urlpatterns = [path("product/<int:key>", product_page), path("list", list_page), path("order/<int:key>", order_page)]
