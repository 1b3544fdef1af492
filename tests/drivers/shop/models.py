from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=40, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    made = models.DateTimeField()
    tags = models.JSONField(default=list)
    active = models.BooleanField(default=True)


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.CASCADE, related_name="orders")
    quantity = models.IntegerField()
    note = models.TextField(null=True)
